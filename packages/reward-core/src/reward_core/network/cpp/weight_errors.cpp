// Products of a few rows with the rounding errors of a weight, which are kept in 4 bits.

#include "vectors.h"

#ifdef HAS_TILES

static const int64_t AHEAD = 2048;  // bytes of the weight that are fetched ahead

// Sums of ROWS rows for 16 outputs. Each 64 bytes of the weight are 8 inputs of the outputs: input i is in the lower
// four bits of byte 4 n + i of output n, input 4 + i in its upper four bits.
template <int ROWS>
static void multiply_outputs(const uint8_t* weight, const int8_t* rows, int64_t inner, __m512i* out) {
  const __m512i four_bits = _mm512_set1_epi8(15);
  __m512i sums[ROWS];
  for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_si512();
  for (int64_t k = 0; k < inner; k += 8, weight += 64) {
    _mm_prefetch((const char*)weight + AHEAD, _MM_HINT_T0);
    __m512i both = _mm512_loadu_si512(weight);
    __m512i lower = _mm512_and_si512(both, four_bits);
    __m512i upper = _mm512_and_si512(_mm512_srli_epi16(both, 4), four_bits);
    for (int r = 0; r < ROWS; r++) {
      int32_t inputs[2];
      std::memcpy(inputs, rows + r * inner + k, 8);
      sums[r] = _mm512_dpbusd_epi32(sums[r], lower, _mm512_set1_epi32(inputs[0]));
      sums[r] = _mm512_dpbusd_epi32(sums[r], upper, _mm512_set1_epi32(inputs[1]));
    }
  }
  for (int r = 0; r < ROWS; r++) out[r] = sums[r];
}

static const int64_t MAX_ROWS = 8;
static void (*const MULTIPLY[MAX_ROWS])(const uint8_t*, const int8_t*, int64_t, __m512i*) = {
    multiply_outputs<1>, multiply_outputs<2>, multiply_outputs<3>, multiply_outputs<4>,
    multiply_outputs<5>, multiply_outputs<6>, multiply_outputs<7>, multiply_outputs<8>};

extern "C" {

// Multiply rows (R, E) * steps (R,) by errors (levels - 7.5) * scale (O, E) and add a bias (O,).
//
// levels: 0 to 15, groups of 16 outputs, see multiply_outputs; the last group is padded with any values. out: (R, O).
void multiply_errors(const uint8_t* levels, const float* scale, const float* bias, const int8_t* rows,
                     const float* steps, float* out, int64_t count, int64_t inner, int64_t columns, int threads) {
  std::vector<float> offsets(count);
  for (int64_t r = 0; r < count; r++) {
    int64_t sum = 0;
    for (int64_t k = 0; k < inner; k++) sum += rows[r * inner + k];
    offsets[r] = 7.5f * sum;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t o = 0; o < columns; o += 16) {
    __mmask16 used = columns - o < 16 ? (1u << (columns - o)) - 1 : 0xffff;
    __m512 by = _mm512_maskz_loadu_ps(used, scale + o), added = _mm512_maskz_loadu_ps(used, bias + o);
    for (int64_t first = 0; first < count; first += MAX_ROWS) {
      int64_t together = std::min(MAX_ROWS, count - first);
      __m512i sums[MAX_ROWS];
      MULTIPLY[together - 1](levels + o * inner / 2, rows + first * inner, inner, sums);
      for (int64_t r = 0; r < together; r++) {
        __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(sums[r]), _mm512_set1_ps(offsets[first + r]));
        x = _mm512_fmadd_ps(x, _mm512_mul_ps(by, _mm512_set1_ps(steps[first + r])), added);
        _mm512_mask_storeu_ps(out + (first + r) * columns + o, used, x);
      }
    }
  }
}
}
#endif
