// Attention in float32, for a CPU without bfloat16 units.

#include "heads.h"

#ifndef __AVX512BF16__

static const int64_t BLOCK = 24;        // queries that are computed at once
static const int64_t ROWS = 6;          // rows of a product that are computed at once
static const int64_t PANEL = 2 * WIDE;  // its columns

// Multiply COUNT rows of a, `stride` apart, by a panel (depth, PANEL).
template <int COUNT>
static void multiply_rows(const float* a, int64_t stride, const float* panel, int64_t depth, float* out,
                          int64_t out_stride) {
  Floats low[COUNT] = {}, high[COUNT] = {};
  for (int64_t k = 0; k < depth; k++, panel += PANEL) {
    Floats b = load_floats(panel), c = load_floats(panel + WIDE);
#pragma GCC unroll 6
    for (int r = 0; r < COUNT; r++) {
      low[r] += a[r * stride + k] * b;
      high[r] += a[r * stride + k] * c;
    }
  }
  for (int r = 0; r < COUNT; r++) {
    store(out + r * out_stride, low[r]);
    store(out + r * out_stride + WIDE, high[r]);
  }
}

static void (*const MULTIPLY[ROWS])(const float*, int64_t, const float*, int64_t, float*, int64_t) = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>, multiply_rows<5>, multiply_rows<6>};

// Multiply `count` rows by consecutive panels.
static void multiply(const float* a, int64_t stride, int64_t count, const float* b, int64_t depth, int64_t panels,
                     float* out, int64_t out_stride) {
  for (int64_t panel = 0; panel < panels; panel++, b += depth * PANEL, out += PANEL)
    for (int64_t r = 0; r < count; r += ROWS)
      MULTIPLY[std::min(ROWS, count - r) - 1](a + r * stride, stride, b, depth, out + r * out_stride, out_stride);
}

// Write row n times `by` as float32.
static void load_row(const HeadRows& from, int64_t n, float by, float* to) {
  const bf16* row = from.row(n);
  for (int64_t i = 0; i < HEAD; i += WIDE) {
    Floats x = load_floats(row + i);
    if (from.steps) x = x * from.steps[n] + load_floats(from.shift + i);
    store(to + i, x * by);
  }
}

// Buffers of a thread, and the stages of the attention of one head.
struct HeadAttention {
  int64_t keys, panels, width;  // N, panels of keys, scores of a query
  Buffer<float> query, key, value, scores, result;
  float inverse[BLOCK];  // reciprocals of the sums of weights

  explicit HeadAttention(int64_t n)
      : keys(n), panels((n + PANEL - 1) / PANEL), width(panels * PANEL), query(BLOCK * HEAD), key(width * HEAD),
        value(n * HEAD), scores(BLOCK * width), result(BLOCK * HEAD) {}

  // Keys in panels (HEAD, PANEL): the channels of PANEL keys.
  void pack_keys(const HeadRows& from) {
    float rows[PANEL * HEAD] = {};
    float* to = key.data();
    for (int64_t first = 0; first < keys; first += PANEL) {
      for (int64_t n = first; n < std::min(keys, first + PANEL); n++) load_row(from, n, 1, rows + (n - first) * HEAD);
      for (int64_t i = 0; i < HEAD; i++)
        for (int64_t n = 0; n < PANEL; n++) *to++ = rows[n * HEAD + i];
    }
  }

  // Values in panels (N, PANEL): PANEL channels of the values.
  void pack_values(const HeadRows& from) {
    float row[HEAD];
    for (int64_t n = 0; n < keys; n++) {
      load_row(from, n, 1, row);
      for (int64_t i = 0; i < HEAD; i += PANEL)
        std::memcpy(value.data() + i * keys + n * PANEL, row + i, PANEL * sizeof(float));
    }
  }

  // Give columns without a key, and keys that are not attended to, a score below all others.
  void leave_out(const bool* attended, int64_t count) {
    for (int64_t r = 0; r < count; r++) {
      float* row = scores.data() + r * width;
      std::fill(row + keys, row + width, -1e30f);
      for (int64_t n = 0; attended && n < keys; n++)
        if (!attended[n]) row[n] = -1e30f;
    }
  }

  // Weights 2^(score - largest score), at least 2^-100.
  void softmax(int64_t count) {
    for (int64_t r = 0; r < count; r++) {
      float* row = scores.data() + r * width;
      Floats most = load_floats(row), total = {};
      for (int64_t n = WIDE; n < width; n += WIDE) most = larger(most, load_floats(row + n));
      const float top = largest(most);
      for (int64_t n = 0; n < width; n += WIDE) {
        Floats weight = exp2(larger(all(-100.0f), load_floats(row + n) - top));
        total += weight;
        store(row + n, weight);
      }
      inverse[r] = 1.0f / sum(total);
    }
  }

  // Write the attended values of `count` queries from `first` on, rows `stride` apart.
  void attend(const HeadRows& queries, int64_t first, int64_t count, const bool* attended, bf16* out, int64_t stride) {
    for (int64_t r = 0; r < count; r++) load_row(queries, first + r, PER_SCORE, query.data() + r * HEAD);
    multiply(query.data(), HEAD, count, key.data(), HEAD, panels, scores.data(), width);
    leave_out(attended, count);
    softmax(count);
    multiply(scores.data(), width, count, value.data(), keys, HEAD / PANEL, result.data(), HEAD);
    for (int64_t r = 0; r < count; r++)
      for (int64_t i = 0; i < HEAD; i += WIDE)
        store_bf16(out + r * stride + i, load_floats(result.data() + r * HEAD + i) * inverse[r]);
  }
};

extern "C" {

int has_vector_attention() { return 1; }

// See attention.cpp.
void attention(Heads q, Heads k, Heads v, const bool* attended, bf16* out, int64_t images, int64_t heads,
               int threads) {
  const int64_t stride = heads * HEAD;
#pragma omp parallel num_threads(threads)
  {
    HeadAttention head(k.rows);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * heads; task++) {
      int64_t image = task / heads, column = task % heads;
      HeadRows queries(q, image, column);
      head.pack_keys(HeadRows(k, image, column));
      head.pack_values(HeadRows(v, image, column));
      for (int64_t first = 0; first < q.rows; first += BLOCK)
        head.attend(queries, first, std::min(BLOCK, q.rows - first), attended ? attended + image * k.rows : nullptr,
                    out + (image * q.rows + first) * stride + column * HEAD, stride);
    }
  }
}
}
#endif
