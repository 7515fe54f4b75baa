// Norms and quantization.

#include "vectors.h"

#ifdef __AVX512BW__
// Round 64 numbers times per_step to bytes, signed or unsigned.
static void store_levels(const float* row, Floats per_step, bool is_signed, char* out) {
  __m512i whole[4];
  for (int64_t i = 0; i < 4; i++)
    whole[i] = _mm512_cvtps_epi32((__m512)(load_floats(row + i * WIDE) * per_step));
  __m512i low = _mm512_packs_epi32(whole[0], whole[1]), high = _mm512_packs_epi32(whole[2], whole[3]);
  __m512i bytes = is_signed ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
  // Each of four lanes has four bytes of each vector.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, bytes));
}
#endif

// Quantize a row to `levels` steps at `most` (127: signed, 255: unsigned); return the size of a step. `add` is 0, or
// NaN for a row that is NaN.
static float quantize_row(const float* row, float most, float levels, float add, RowPieces out, int64_t width) {
  Floats per_step = all(most > 0 ? levels / most : 0.0f);
  int64_t i = 0;
#ifdef __AVX512BW__
  for (; i + 64 <= width; i += 64) store_levels(row + i, per_step, levels == 127, out.at(i));
#endif
  for (; i < width; i += WIDE) {
    Ints whole = __builtin_convertvector(nearest(load_floats(row + i) * per_step), Ints);
    store(out.at(i), low_bytes(whole));
  }
  return most / levels + add;
}

// Rows are shared among threads in parts of an image. Parts do not depend on the number of threads or images, so
// that sums over them do not either.
static const int64_t PART = 16;

struct Rows {
  int64_t rows, width, tokens;  // R, D, rows of an image

  int64_t parts_of_image() const { return (tokens + PART - 1) / PART; }
  int64_t parts() const { return rows / tokens * parts_of_image(); }
  int64_t image(int64_t part) const { return part / parts_of_image(); }
  int64_t first(int64_t part) const { return image(part) * tokens + part % parts_of_image() * PART; }
  int64_t last(int64_t part) const { return std::min(first(part) + PART, (image(part) + 1) * tokens); }
};

// Levels (R, D) and steps (R,) of quantized rows; levels (B, D) and steps (B,) of their means over an image.
struct Quantized {
  int8_t* levels;
  float* steps;
  int8_t* mean_levels;
  float* mean_steps;
  int64_t tiled;  // whether levels are in tile order

  RowPieces row(int64_t r, int64_t width) const { return RowPieces(levels, r, width, tiled); }
};

// Sums of the rows of each part, and the quantized means over images.
struct Means {
  const Rows& shape;
  std::unique_ptr<float[]> sums;
  Means(const Rows& rows, bool used) : shape(rows), sums(used ? new float[rows.parts() * rows.width] : nullptr) {}

  void add(int64_t part, const float* row, bool first) {
    float* sum = sums.get() + part * shape.width;
    for (int64_t i = 0; i < shape.width; i += WIDE)
      store(sum + i, first ? load_floats(row + i) : load_floats(sum + i) + load_floats(row + i));
  }

  // Quantize the mean of an image.
  void finish(int64_t image, const Quantized& out) {
    int64_t parts = shape.parts_of_image(), width = shape.width;
    float* mean = sums.get() + image * parts * width;
    Floats most = {}, total = {};
    for (int64_t i = 0; i < width; i += WIDE) {
      Floats sum = load_floats(mean + i);
      for (int64_t part = 1; part < parts; part++) sum += load_floats(mean + part * width + i);
      sum *= 1.0f / shape.tokens;
      store(mean + i, sum);
      total += sum;
      most = larger(absolute(sum), most);
    }
    RowPieces levels(out.mean_levels, image, width, false);
    out.mean_steps[image] = quantize_row(mean, largest(most), 127, 0 * ::sum(total), levels, width);
  }
};

extern "C" {

// Add a branch to the residual stream, and normalize the sum (LayerNorm).
//
// stream: (R, D); becomes the sum if keep_sum, otherwise the normalized sum.
// branch: (R, D) or null. scale (R,) and shift (D,) or null: branch * scale + shift is added. The shift of the
// next image is shift_stride further on.
// out: (R, D) bf16; or, if null, quantized with normalized = levels * steps.
void add_norm(float* stream, const bf16* branch, const float* scale, const float* shift, int64_t shift_stride,
              const float* weight, const float* bias, float eps, int keep_sum, bf16* out, Quantized quantized,
              Rows shape, int threads) {
  int64_t width = shape.width;
  Means means(shape, !out);
#pragma omp parallel num_threads(threads)
  {
    Buffer<float> buffer(width);
    float* row = buffer.data();
#pragma omp for schedule(static)
    for (int64_t part = 0; part < shape.parts(); part++) {
      const float* added = shift ? shift + shape.image(part) * shift_stride : nullptr;
      for (int64_t r = shape.first(part); r < shape.last(part); r++) {
        float* x = stream + r * width;
        Floats total = {}, squares = {}, most = {};
        Floats by = all(scale ? scale[r] : 1.0f);
        for (int64_t i = 0; i < width; i += WIDE) {
          Floats v = load_floats(x + i);
          if (branch) v += load_floats(branch + r * width + i) * by;
          if (added) v += load_floats(added + i);
          total += v;
          store(row + i, v);
          if (keep_sum && branch) store(x + i, v);
        }
        float mean = sum(total) / width;
        for (int64_t i = 0; i < width; i += WIDE) {
          Floats v = load_floats(row + i) - mean;
          squares += v * v;
        }
        float variance = sum(squares) / width;
        float inverse = 1.0f / __builtin_sqrtf(variance + eps);
        for (int64_t i = 0; i < width; i += WIDE) {
          Floats y = (load_floats(row + i) - mean) * inverse * load_floats(weight + i) + load_floats(bias + i);
          if (!keep_sum) store(x + i, y);
          if (out) {
            store_bf16(out + r * width + i, y);
          } else {
            store(row + i, y);
            most = larger(absolute(y), most);
          }
        }
        if (out) continue;
        means.add(part, row, r == shape.first(part));
        quantized.steps[r] = quantize_row(row, largest(most), 127, 0 * variance, quantized.row(r, width), width);
      }
    }
#pragma omp for schedule(static)
    for (int64_t image = 0; image < (out ? 0 : shape.rows / shape.tokens); image++) means.finish(image, quantized);
  }
}

// Quantize rows x (R, D) to [-127, 127]; or, with scale (R,) and shift (D,), gelu(x * scale + shift) + offset,
// which must not be negative, to [0, 255]. The shift of the next image is shift_stride further on.
void quantize(const bf16* x, const float* scale, const float* shift, int64_t shift_stride, float offset,
              Quantized out, Rows shape, int threads) {
  int64_t width = shape.width;
  Means means(shape, true);
#pragma omp parallel num_threads(threads)
  {
    Buffer<float> buffer(width);
    float* row = buffer.data();
#pragma omp for schedule(static)
    for (int64_t part = 0; part < shape.parts(); part++) {
      const float* added = shift + shape.image(part) * shift_stride;
      for (int64_t r = shape.first(part); r < shape.last(part); r++) {
        Floats most = {}, total = {};
        for (int64_t i = 0; i < width; i += WIDE) {
          Floats v = load_floats(x + r * width + i);
          if (scale) v = gelu(v * scale[r] + load_floats(added + i)) + offset;
          store(row + i, v);
          total += v;
          most = larger(absolute(v), most);
        }
        means.add(part, row, r == shape.first(part));
        float levels = scale ? 255 : 127, add = 0 * sum(total);
        out.steps[r] = quantize_row(row, largest(most), levels, add, out.row(r, width), width);
      }
    }
#pragma omp for schedule(static)
    for (int64_t image = 0; image < shape.rows / shape.tokens; image++) means.finish(image, out);
  }
}

// Scale and shift rows x (R, D) in place: x * scale + shift with scale (R,) and shift (D,). The shift of the next
// image is shift_stride further on.
void rescale(bf16* x, const float* scale, const float* shift, int64_t shift_stride, Rows shape, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < shape.rows; r++) {
    bf16* row = x + r * shape.width;
    const float* added = shift + r / shape.tokens * shift_stride;
    for (int64_t i = 0; i < shape.width; i += WIDE)
      store_bf16(row + i, load_floats(row + i) * scale[r] + load_floats(added + i));
  }
}
}
