// Kernels of the fused encoders on an x86 CPU (cpu_kernels.py compiles and calls them).
//
// They read and write each activation once. Letters: R rows, D width, B images, N tokens, H heads, 64 the
// width of a head. bf16 values are uint16_t. Widths are multiples of 16.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
typedef float Floats __attribute__((vector_size(64)));  // 16 numbers
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

static const int64_t WIDE = 16;

// Zeros that start at a cache line. Vectors and tiles that cross two lines take twice as long.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t size) : bytes(size * sizeof(T) + 64) {}
  T* data() { return (T*)(((uintptr_t)bytes.data() + 63) / 64 * 64); }

 private:
  std::vector<char> bytes;
};

template <typename Vector, typename T>
static inline Vector load(const T* from) {
  Vector x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename Vector, typename T>
static inline void store(T* to, Vector x) {
  std::memcpy(to, &x, sizeof x);
}

static inline Floats load_floats(const float* from) { return load<Floats>(from); }

static inline Floats load_floats(const bf16* from) {
  Bits bits = __builtin_convertvector(load<Halves>(from), Bits) << 16;
  return (Floats)bits;
}

// Round to the nearest bf16, ties to even. NaN stays NaN.
static inline void store_bf16(bf16* to, Floats x) {
#ifdef __AVX512BF16__
  __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(to, &rounded, sizeof rounded);
#else
  Bits bits = (Bits)x;
  Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Bits nan = (Bits)(x != x);
  store(to, __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves));
#endif
}

static inline Floats all(float x) { return Floats{} + x; }

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

static inline Floats absolute(Floats x) { return (Floats)((Bits)x & 0x7fffffff); }

static inline float sum(Floats x) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)x);
#else
  float total = 0;
  for (int i = 0; i < WIDE; i++) total += x[i];
  return total;
#endif
}

static inline float largest(Floats x) {
#ifdef __AVX512F__
  return _mm512_reduce_max_ps((__m512)x);
#else
  float most = x[0];
  for (int i = 1; i < WIDE; i++) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

// 1 / x with a relative error of at most 2^-14.
static inline Floats reciprocal(Floats x) {
#ifdef __AVX512F__
  return (Floats)_mm512_rcp14_ps((__m512)x);
#else
  return 1.0f / x;
#endif
}

// Nearest whole numbers of |x| < 2^22: the sum with 1.5 * 2^23 has no bits for a fraction.
static inline Floats nearest(Floats x) {
  Floats shift = all(12582912.0f);
  return (x + shift) - shift;
}

// 2^x of x in [-126, 126] with a relative error of at most 3e-6: the fraction by its Taylor series.
static inline Floats exp2(Floats x) {
  Floats whole = nearest(x), f = x - whole;  // |f| <= 0.5
  Floats power = ((((0.0013333558f * f + 0.0096181291f) * f + 0.0555041087f) * f + 0.2402265070f) * f +
                  0.6931471806f) * f + 1.0f;
  Ints exponent = (__builtin_convertvector(whole, Ints) + 127) << 23;
  return power * (Floats)exponent;
}

// GELU by its tanh approximation (arXiv 1606.08415, section 2): x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))).
static inline Floats gelu(Floats x) {
  Floats t = x * (-2.3022082f - 0.1029432f * x * x);  // times log2(e)
  t = t < -126.0f ? all(-126.0f) : t;
  t = t > 126.0f ? all(126.0f) : t;
  return x * reciprocal(1.0f + exp2(t));
}

// Quantize a row to `levels` steps at `most`; return the size of a step. `add` is 0, or NaN for a row that is NaN.
static float quantize_row(const float* row, float most, float levels, float add, int8_t* out, int64_t width) {
  Floats per_step = all(most > 0 ? levels / most : 0.0f);
  for (int64_t i = 0; i < width; i += WIDE) {
    Ints whole = __builtin_convertvector(nearest(load_floats(row + i) * per_step), Ints);
    store(out + i, __builtin_convertvector(whole, Bytes));
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
    out.mean_steps[image] =
        quantize_row(mean, largest(most), 127, 0 * ::sum(total), out.mean_levels + image * width, width);
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
        quantized.steps[r] =
            quantize_row(row, largest(most), 127, 0 * variance, quantized.levels + r * width, width);
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
        out.steps[r] = quantize_row(row, largest(most), levels, add, out.levels + r * width, width);
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

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

// Ask Linux for the AMX registers. Returns whether it grants them.
int amx_is_granted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

struct TileConfig {
  uint8_t palette, reserved[15];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Eight tiles of 16 rows of 64 bytes. A constant, because GCC may leave out stores to a local variable.
static const TileConfig TILES = {
    1, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static const int64_t HEAD = 64;    // width of a head

// Keys, values, queries, scores and weights of one head.
struct HeadBuffers {
  int64_t tokens, tiles, pairs;  // N, tiles of 16 keys, tiles of 32 keys
  Buffer<bf16> query, values_in, key, value, weights;
  Buffer<float> scores, result;
  explicit HeadBuffers(int64_t n)
      : tokens(n), tiles((n + 15) / 16), pairs((n + 31) / 32), query(pairs * 32 * HEAD),
        values_in(pairs * 32 * HEAD), key(tiles * 16 * HEAD), value(pairs * 32 * HEAD),
        weights(32 * pairs * 32), scores(32 * tiles * 16), result(16 * HEAD) {}

  // Copy (N, 64) out of rows of 3 D; scaled and shifted if scale is given.
  void copy(bf16* to, const bf16* from, int64_t stride, const float* scale, const float* shift) {
    for (int64_t n = 0; n < tokens; n++) {
      if (!scale) {
        std::memcpy(to + n * HEAD, from + n * stride, HEAD * sizeof(bf16));
        continue;
      }
      for (int64_t i = 0; i < HEAD; i += WIDE)
        store_bf16(to + n * HEAD + i, load_floats(from + n * stride + i) * scale[n] + load_floats(shift + i));
    }
  }

  // Keys as second factors of QK^T: tile (t, half), row k, column n has channels 2k and 2k+1 of key n.
  void pack_keys(const bf16* keys) {
    const uint32_t* from = (const uint32_t*)keys;
    uint32_t* to = (uint32_t*)key.data();
    for (int64_t t = 0; t < tiles; t++)
      for (int64_t half = 0; half < 2; half++, to += 256) {
        Ints index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const uint32_t* corner = from + t * 16 * 32 + half * 16;
        for (int64_t k = 0; k < 16; k++)
          _mm512_storeu_si512(to + k * 16, _mm512_i32gather_epi32((__m512i)(index * 32), corner + k, 4));
      }
  }

  // Values as second factors: tile (pair, quarter), row k, column n has values 2k and 2k+1 of channel n.
  void pack_values(const bf16* values) {
    bf16* to = value.data();
    for (int64_t pair = 0; pair < pairs; pair++)
      for (int64_t quarter = 0; quarter < 4; quarter++)
        for (int64_t k = 0; k < 16; k++, to += 32) {
          const bf16* even = values + (pair * 32 + 2 * k) * HEAD + quarter * 16;
          Bits first = __builtin_convertvector(load<Halves>(even), Bits);
          Bits second = __builtin_convertvector(load<Halves>(even + HEAD), Bits);
          store(to, first | (second << 16));
        }
  }

  // Scores of 32 queries, (32, tiles * 16) float32.
  void multiply_keys(int64_t first_query) {
    const bf16* q = query.data() + first_query * HEAD;
    _tile_loadd(2, q, HEAD * 2);
    _tile_loadd(3, q + 32, HEAD * 2);
    _tile_loadd(4, q + 16 * HEAD, HEAD * 2);
    _tile_loadd(5, q + 16 * HEAD + 32, HEAD * 2);
    int64_t width = tiles * 16;
    for (int64_t t = 0; t < tiles; t++) {
      const bf16* k = key.data() + t * 16 * HEAD;
      _tile_loadd(6, k, 64);
      _tile_loadd(7, k + 512, 64);
      _tile_zero(0);
      _tile_zero(1);
      _tile_dpbf16ps(0, 2, 6);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(0, 3, 7);
      _tile_dpbf16ps(1, 5, 7);
      _tile_stored(0, scores.data() + t * 16, width * 4);
      _tile_stored(1, scores.data() + 16 * width + t * 16, width * 4);
    }
  }

  // Weights exp((score - most) / 8) of one query in bf16; returns the reciprocal of their sum.
  float softmax(int64_t query_row) {
    int64_t width = tiles * 16;
    float* s = scores.data() + query_row * width;
    bf16* w = weights.data() + query_row * pairs * 32;
    for (int64_t n = tokens; n < width; n++) s[n] = s[0];  // padding, removed below
    Floats most = load_floats(s), total = {};
    for (int64_t n = WIDE; n < width; n += WIDE) most = larger(load_floats(s + n), most);
    const float per_step = 0.125f * 1.44269504f;
    float offset = largest(most) * per_step;
    const Ints index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t n = 0; n < width; n += WIDE) {
      Floats t = load_floats(s + n) * per_step - offset;
      Floats e = exp2(t < -126.0f ? all(-126.0f) : t);
      if (n + WIDE > tokens) e = (int32_t)(tokens - n) > index ? e : all(0);
      total += e;
      store_bf16(w + n, e);
    }
    return 1.0f / sum(total);
  }

  // Attended values of 16 queries, (16, 64) float32 in result.
  void multiply_values(int64_t query_row) {
    const bf16* w = weights.data() + query_row * pairs * 32;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t pair = 0; pair < pairs; pair++) {
      const bf16* v = value.data() + pair * 32 * HEAD;
      _tile_loadd(4, w + pair * 32, pairs * 64);
      _tile_loadd(5, v, 64);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, v + 512, 64);
      _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(5, v + 1024, 64);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, v + 1536, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
    _tile_stored(0, result.data(), HEAD * 4);
    _tile_stored(1, result.data() + 16, HEAD * 4);
    _tile_stored(2, result.data() + 32, HEAD * 4);
    _tile_stored(3, result.data() + 48, HEAD * 4);
  }
};

// Self-attention softmax(q k^T / 8) v of heads of width 64.
//
// qkv: (B, N, 3 D), queries, keys and values. scale (B N,) and shift (3 D,) or null: qkv * scale + shift is used.
// The shift of the next image is shift_stride further on.
// out: (B, N, D).
void attention(const bf16* qkv, const float* scale, const float* shift, int64_t shift_stride, bf16* out,
               int64_t images, int64_t tokens, int64_t heads, int threads) {
  int64_t width = heads * HEAD;
#pragma omp parallel num_threads(threads)
  {
    _tile_loadconfig(&TILES);
    HeadBuffers head(tokens);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < images * heads; task++) {
      int64_t image = task / heads, column = task % heads * HEAD;
      const bf16* from = qkv + image * tokens * 3 * width + column;
      const float* by = scale ? scale + image * tokens : nullptr;
      const float* added = shift + image * shift_stride + column;
      head.copy(head.values_in.data(), from + width, 3 * width, by, added + width);
      head.pack_keys(head.values_in.data());
      head.copy(head.values_in.data(), from + 2 * width, 3 * width, by, added + 2 * width);
      head.pack_values(head.values_in.data());
      head.copy(head.query.data(), from, 3 * width, by, added);
      for (int64_t first = 0; first < tokens; first += 32) {
        head.multiply_keys(first);
        for (int64_t half = 0; half < 32 && first + half < tokens; half += 16) {
          float inverse[16];
          int64_t count = tokens - first - half < 16 ? tokens - first - half : 16;
          for (int64_t r = 0; r < count; r++) inverse[r] = head.softmax(half + r);
          head.multiply_values(half);
          for (int64_t r = 0; r < count; r++)
            for (int64_t i = 0; i < HEAD; i += WIDE)
              store_bf16(out + (image * tokens + first + half + r) * width + column + i,
                         load_floats(head.result.data() + r * HEAD + i) * inverse[r]);
        }
      }
    }
    _tile_release();
  }
}
#else
int amx_is_granted() { return 0; }
#endif
}
