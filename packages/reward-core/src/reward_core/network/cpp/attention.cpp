// Self-attention with AMX.

#include "vectors.h"

#ifdef HAS_TILES

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

extern "C" {

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
}
#endif
