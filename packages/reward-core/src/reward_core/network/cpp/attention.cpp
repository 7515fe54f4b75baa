// Attention in bf16, with AMX or AVX512-BF16.

#include "heads.h"

#ifdef __AVX512BF16__

static const int64_t BLOCK = 32;  // queries that are computed at once

#ifndef HAS_TILES
static const int64_t ROWS = 16;  // rows of a product that are computed at once

// Multiply COUNT rows of a by tiles of 16 columns: out = a b.
//
// a: (COUNT, 32 tiles), rows a_stride apart. b: tiles, b_stride apart, in whose row k column n has numbers 2k and
// 2k+1 of column n. out: (COUNT, 16), rows out_stride apart.
template <int COUNT>
static void multiply_rows(const bf16* a, int64_t a_stride, const bf16* b, int64_t b_stride, int64_t tiles, float* out,
                          int64_t out_stride) {
  __m512 sums[COUNT] = {};
  for (int64_t t = 0; t < tiles; t++, a += 32, b += b_stride)
    for (int64_t k = 0; k < 16; k++) {
      __m512bh column = (__m512bh)_mm512_load_si512(b + k * 32);
#pragma GCC unroll 16
      for (int r = 0; r < COUNT; r++) {
        __m512bh pair = (__m512bh)_mm512_set1_epi32(load<int32_t>(a + r * a_stride + 2 * k));
        sums[r] = _mm512_dpbf16_ps(sums[r], pair, column);
      }
    }
  for (int r = 0; r < COUNT; r++) _mm512_store_ps(out + r * out_stride, sums[r]);
}

// Multiply `count` rows, or a few more: up to a multiple of 4.
static void multiply(const bf16* a, int64_t a_stride, int64_t count, const bf16* b, int64_t b_stride, int64_t tiles,
                     float* out, int64_t out_stride) {
  for (; count > 0; count -= ROWS, a += ROWS * a_stride, out += ROWS * out_stride) {
    auto rows = count > 12  ? multiply_rows<16>
                : count > 8 ? multiply_rows<12>
                : count > 4 ? multiply_rows<8>
                            : multiply_rows<4>;
    rows(a, a_stride, b, b_stride, tiles, out, out_stride);
  }
}
#endif

// Transpose 16 rows of 16 numbers.
static void transpose(const uint32_t* const* rows, uint32_t* to) {
  for (int64_t c = 0; c < 16; c += 4, to += 64) {
    __m512i x[4];  // lane i of x[r] has four numbers of row 4 i + r
    for (int64_t r = 0; r < 4; r++) {
      x[r] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)(rows[r] + c)));
      x[r] = _mm512_inserti32x4(x[r], _mm_loadu_si128((const __m128i*)(rows[r + 4] + c)), 1);
      x[r] = _mm512_inserti32x4(x[r], _mm_loadu_si128((const __m128i*)(rows[r + 8] + c)), 2);
      x[r] = _mm512_inserti32x4(x[r], _mm_loadu_si128((const __m128i*)(rows[r + 12] + c)), 3);
    }
    __m512i low01 = _mm512_unpacklo_epi32(x[0], x[1]), high01 = _mm512_unpackhi_epi32(x[0], x[1]);
    __m512i low23 = _mm512_unpacklo_epi32(x[2], x[3]), high23 = _mm512_unpackhi_epi32(x[2], x[3]);
    _mm512_store_si512(to, _mm512_unpacklo_epi64(low01, low23));
    _mm512_store_si512(to + 16, _mm512_unpackhi_epi64(low01, low23));
    _mm512_store_si512(to + 32, _mm512_unpacklo_epi64(high01, high23));
    _mm512_store_si512(to + 48, _mm512_unpackhi_epi64(high01, high23));
  }
}

// Buffers of a thread, and the stages of the attention of one head.
//
// With SCALED, keys and values have steps. The steps of keys scale the scores, those of values the weights, and
// the shift of values is added to the result. The shift of keys adds the same to all scores of a query, so it
// changes no weight and is left out.
template <bool SCALED>
struct HeadAttention {
  int64_t keys, tiles, pairs, width;  // N, tiles of 16 keys, tiles of 32 keys, scores of a query
  Buffer<bf16> query, key, value, weights;
  Buffer<float> scores, score_steps, value_steps, result;
  float inverse[BLOCK];  // reciprocals of the sums of weights

  explicit HeadAttention(int64_t n)
      : keys(n), tiles((n + 15) / 16), pairs((n + 31) / 32), width(tiles * 16), query(BLOCK * HEAD),
        key(width * HEAD), value(pairs * 32 * HEAD), weights(BLOCK * pairs * 32), scores(BLOCK * width),
        score_steps(width), value_steps(pairs * 32), result(BLOCK * HEAD) {}

  // Keys as second factors of QK^T: tile (t, half), row k, column n has channels 2k and 2k+1 of key n.
  void pack_keys(const HeadRows& from) {
    uint32_t* to = (uint32_t*)key.data();
    for (int64_t t = 0; t < tiles; t++)
      for (int64_t half = 0; half < 2; half++, to += 256) {
        const uint32_t* rows[16];
        for (int64_t n = 0; n < 16; n++) rows[n] = (const uint32_t*)from.row(t * 16 + n) + half * 16;
        transpose(rows, to);
      }
    for (int64_t n = 0; SCALED && n < keys; n++) score_steps.data()[n] = from.steps[n] * PER_SCORE;
  }

  // Values as second factors: tile (pair, quarter), row k, column n has values 2k and 2k+1 of channel n.
  void pack_values(const HeadRows& from) {
    bf16* to = value.data();
    for (int64_t pair = 0; pair < pairs; pair++, to += 32 * HEAD)
      for (int64_t k = 0; k < 16; k++) {
        const bf16 *even = from.row(pair * 32 + 2 * k), *odd = from.row(pair * 32 + 2 * k + 1);
        for (int64_t quarter = 0; quarter < 4; quarter++) {
          Bits first = load_bits(even + quarter * 16), second = load_bits(odd + quarter * 16);
          store(to + quarter * 512 + k * 32, first | (second << 16));
        }
      }
    if (SCALED) std::memcpy(value_steps.data(), from.steps, keys * sizeof(float));
  }

  // Copy `count` queries from `first` on.
  void load_queries(const HeadRows& from, int64_t first, int64_t count) {
    for (int64_t r = 0; r < count; r++) {
      const bf16* row = from.row(first + r);
      bf16* to = query.data() + r * HEAD;
      for (int64_t i = 0; i < HEAD; i += WIDE)
        if (from.steps)
          store_bf16(to + i, load_floats(row + i) * from.steps[first + r] + load_floats(from.shift + i));
        else
          store(to + i, load<Halves>(row + i));
    }
  }

#ifdef HAS_TILES
  // Scores of up to 32 queries.
  void multiply_keys(int64_t count) {
    finish_stores();
    const bf16* q = query.data();
    const bool both = count > 16;
    _tile_loadd(2, q, HEAD * 2);
    _tile_loadd(3, q + 32, HEAD * 2);
    _tile_loadd(4, q + 16 * HEAD, HEAD * 2);
    _tile_loadd(5, q + 16 * HEAD + 32, HEAD * 2);
    float* to = scores.data();
    for (int64_t t = 0; t < tiles; t++, to += 16) {
      const bf16* k = key.data() + t * 16 * HEAD;
      _tile_zero(0);
      _tile_zero(1);
      _tile_loadd(6, k, 64);
      _tile_dpbf16ps(0, 2, 6);
      if (both) _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(7, k + 512, 64);
      _tile_dpbf16ps(0, 3, 7);
      _tile_stored(0, to, width * 4);
      if (!both) continue;
      _tile_dpbf16ps(1, 5, 7);
      _tile_stored(1, to + 16 * width, width * 4);
    }
  }
#else
  // Scores of up to 32 queries.
  void multiply_keys(int64_t count) {
    for (int64_t t = 0; t < tiles; t++)
      multiply(query.data(), HEAD, count, key.data() + t * 16 * HEAD, 512, 2, scores.data() + t * 16, width);
  }
#endif

  // Give keys that are not attended to a score below all others.
  void leave_out(const bool* attended, int64_t count) {
    for (int64_t r = 0; r < count; r++)
      for (int64_t n = 0; n < keys; n++)
        if (!attended[n]) scores.data()[r * width + n] = -1e30f;
  }

  // Scores n to n + 15 of a query, without the factor PER_SCORE if not SCALED.
  Floats score(const float* row, int64_t n) {
    Floats x = load_floats(row + n);
    return SCALED ? x * load_floats(score_steps.data() + n) : x;
  }

  // Which of the last 16 scores belong to keys.
  auto is_key() const {
    const Ints index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (int32_t)(keys - width + 16) > index;
  }

  // Largest scores of `count` queries, with the factor.
  void largest_scores(int64_t count, float* most) {
    const int64_t last = width - 16;
    for (int64_t r = 0; r < count; r++) {
      const float* row = scores.data() + r * width;
      Floats even = is_key() ? score(row, last) : all(score(row, 0)[0]), odd = even;
      for (int64_t n = 0; n < last; n += 2 * WIDE) {
        even = larger(even, score(row, n));
        if (n + WIDE < last) odd = larger(odd, score(row, n + WIDE));
      }
      most[r] = largest(larger(even, odd)) * (SCALED ? 1.0f : PER_SCORE);
    }
  }

  // Weights exp(score - most) of `count` queries in bf16.
  //
  // All maxima come first, and sums alternate between two vectors, so that additions do not wait for each other.
  void softmax(int64_t count) {
    float most[BLOCK];
    largest_scores(count, most);
    for (int64_t r = 0; r < count; r++) {
      const float* row = scores.data() + r * width;
      // At least 2^-100: times a step it is not denormal, which would take a hundred cycles.
      auto weight = [&](int64_t n) {
        return exp2(larger(all(-100.0f), score(row, n) * (SCALED ? 1.0f : PER_SCORE) - most[r]));
      };
      auto keep = [&](int64_t n, Floats low, Floats high) {
        if (SCALED) {
          low *= load_floats(value_steps.data() + n);
          high *= load_floats(value_steps.data() + n + WIDE);
        }
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
        _mm512_store_si512(weights.data() + r * pairs * 32 + n, (__m512i)both);
      };
      Floats even = {}, odd = {};
      int64_t n = 0;
      for (const int64_t last = width - 16; n + WIDE < last; n += 2 * WIDE) {
        Floats low = weight(n), high = weight(n + WIDE);
        even += low;
        odd += high;
        keep(n, low, high);
      }
      Floats low = weight(n), high = all(0);
      if (n + WIDE < width)
        high = is_key() ? weight(n + WIDE) : high;
      else
        low = is_key() ? low : high;
      keep(n, low, high);
      inverse[r] = 1.0f / sum((even + low) + (odd + high));
    }
  }

#ifdef HAS_TILES
  // Sums of values times weights of up to 32 queries.
  void multiply_values(int64_t count) {
    finish_stores();
    const bf16 *low = weights.data(), *high = low + 16 * pairs * 32;
    const bool both = count > 16;
    for (int64_t half = 0; half < 2; half++) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t pair = 0; pair < pairs; pair++) {
        const bf16* v = value.data() + pair * 32 * HEAD + half * 1024;
        _tile_loadd(4, low + pair * 32, pairs * 64);
        _tile_loadd(6, v, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, v + 512, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (!both) continue;
        _tile_loadd(5, high + pair * 32, pairs * 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      float* to = result.data() + half * 32;
      _tile_stored(0, to, HEAD * 4);
      _tile_stored(1, to + 16, HEAD * 4);
      _tile_stored(2, to + 16 * HEAD, HEAD * 4);
      _tile_stored(3, to + 16 * HEAD + 16, HEAD * 4);
    }
  }
#else
  // Sums of values times weights of up to 32 queries.
  void multiply_values(int64_t count) {
    for (int64_t quarter = 0; quarter < 4; quarter++)
      multiply(weights.data(), pairs * 32, count, value.data() + quarter * 512, 32 * HEAD, pairs,
               result.data() + quarter * 16, HEAD);
  }
#endif

  // Write the attended values of `count` queries, rows `stride` apart.
  void write(const HeadRows& values, int64_t count, bf16* out, int64_t stride) {
    for (int64_t r = 0; r < count; r++)
      for (int64_t i = 0; i < HEAD; i += WIDE) {
        Floats x = load_floats(result.data() + r * HEAD + i) * inverse[r];
        if (SCALED) x += load_floats(values.shift + i);
        store_bf16(out + r * stride + i, x);
      }
  }
};

template <bool SCALED>
static void attend(const Heads& q, const Heads& k, const Heads& v, const bool* attended, bf16* out, int64_t images,
                   int64_t heads, int threads) {
  const int64_t stride = heads * HEAD;
#pragma omp parallel num_threads(threads)
  {
#ifdef HAS_TILES
    _tile_loadconfig(&TILES);
#endif
    HeadAttention<SCALED> head(k.rows);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * heads; task++) {
      int64_t image = task / heads, column = task % heads;
      HeadRows queries(q, image, column), values(v, image, column);
      head.pack_keys(HeadRows(k, image, column));
      head.pack_values(values);
      for (int64_t first = 0; first < q.rows; first += BLOCK) {
        int64_t count = std::min(BLOCK, q.rows - first);
        head.load_queries(queries, first, count);
        head.multiply_keys(count);
        if (attended) head.leave_out(attended + image * k.rows, count);
        head.softmax(count);
        head.multiply_values(count);
        head.write(values, count, out + (image * q.rows + first) * stride + column * HEAD, stride);
      }
    }
#ifdef HAS_TILES
    _tile_release();
#endif
  }
}

extern "C" {

// Whether attention works without AMX.
int has_vector_attention() {
#ifdef HAS_TILES
  return 0;
#else
  return 1;
#endif
}

// Attention softmax(q k^T / 8) v of heads of width 64.
//
// Keys and values have steps, or neither has. attended: (B, N), the keys to attend to, at least one per image; or
// null for all. out: (B, Q, 64 H).
void attention(Heads q, Heads k, Heads v, const bool* attended, bf16* out, int64_t images, int64_t heads,
               int threads) {
  (k.steps ? attend<true> : attend<false>)(q, k, v, attended, out, images, heads, threads);
}
}
#endif
