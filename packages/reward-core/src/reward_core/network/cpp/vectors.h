// Vectors, bf16 and AMX tiles, for the kernels of the fused encoders on an x86 CPU (compiled_kernels.py compiles
// and calls them).
//
// Kernels read and write each activation once. Letters: R rows, D width, B images, N tokens, H heads, 64 the
// width of a head. bf16 values are uint16_t. Widths are multiples of 16.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

// Numbers of a vector: as many as a register holds. GCC computes wider vectors in memory, which takes three times
// as long.
#ifdef __AVX512F__
#define WIDTH 16
#else
#define WIDTH 8
#endif
static const int64_t WIDE = WIDTH;

typedef uint16_t bf16;
typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
typedef int8_t Bytes __attribute__((vector_size(WIDTH)));

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

// Bits of WIDE bf16, each in the lower half of 32 bits.
static inline Bits load_bits(const bf16* from) {
#ifdef __AVX512F__
  return (Bits)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
#else
  return __builtin_convertvector(load<Halves>(from), Bits);
#endif
}

static inline Floats load_floats(const bf16* from) { return (Floats)(load_bits(from) << 16); }

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

// The larger and the smaller of two; b where one is NaN.
static inline Floats larger(Floats a, Floats b) {
#ifdef __AVX512F__
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

static inline Floats smaller(Floats a, Floats b) {
#ifdef __AVX512F__
  return (Floats)_mm512_min_ps((__m512)a, (__m512)b);
#else
  return a < b ? a : b;
#endif
}

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

// Nearest whole numbers of |x| < 2^22: the sum with 1.5 * 2^23 has no bits for a fraction.
static const float NO_FRACTION = 12582912.0f;

static inline Floats nearest(Floats x) { return (x + NO_FRACTION) - NO_FRACTION; }

// The lowest bytes of whole numbers.
static inline Bytes low_bytes(Ints x) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  // GCC would convert one number after the other.
  __m256i low = _mm256_and_si256((__m256i)x, _mm256_set1_epi32(255));
  __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  Bytes bytes;
  _mm_storel_epi64((__m128i*)&bytes, _mm_packus_epi16(halves, halves));
  return bytes;
#else
  return __builtin_convertvector(x, Bytes);
#endif
}

// 2^x of x in [-126, 126] with a relative error of at most 8e-5: the fraction by a polynomial with the smallest
// relative error, the whole part is added to the exponent.
static inline Floats exp2(Floats x) {
  Floats shifted = x + NO_FRACTION, f = x - (shifted - NO_FRACTION);  // |f| <= 0.5
  Floats power = ((0.055171669f * f + 0.242611122f) * f + 0.693260985f) * f + 0.999928074f;
  return (Floats)((Bits)power + ((Bits)shifted << 23));
}

// GELU x (0.5 + p(x)). p is an odd polynomial, fitted to half of erf(x / sqrt(2)) for the smallest error of the
// result: at most 1.5e-4 for |x| < 12 and 1.2e-5 of x beyond.
static inline Floats gelu(Floats x) {
  Floats y = larger(all(-3.9f), smaller(all(3.9f), x)), z = y * y;
  Floats p = 2.62714487e-8f * z - 1.77049343e-6f;
  p = p * z + 5.12372392e-5f;
  p = p * z - 8.44511648e-4f;
  p = p * z + 8.91378547e-3f;
  p = p * z - 6.48694731e-2f;
  p = p * z + 3.98085605e-1f;
  return x * (p * y + 0.5f);
}

// Tile order: tiles of 16 rows of 64 bytes are consecutive, first those of the same rows. A matrix of R rows in
// tile order has memory for a multiple of 32 rows. Otherwise rows are consecutive.
static const int64_t TILE = 1024;  // bytes

// Where 64-byte pieces of a row are.
struct RowPieces {
  char* start;
  int64_t stride;

  RowPieces(void* matrix, int64_t row, int64_t row_bytes, bool tiled)
      : start((char*)matrix + (tiled ? row / 16 * (row_bytes / 64) * TILE + row % 16 * 64 : row * row_bytes)),
        stride(tiled ? TILE : 64) {}

  // The byte at an offset in the row.
  char* at(int64_t byte) const { return start + byte / 64 * stride + byte % 64; }
};

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__)
#define HAS_TILES

struct TileConfig {
  uint8_t palette, reserved[15];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// GCC does not know that loads of tiles read memory. This finishes earlier stores.
static inline void finish_stores() { asm volatile("" ::: "memory"); }

// Eight tiles of 16 rows of 64 bytes. A constant, because GCC may leave out stores to a local variable.
static const TileConfig TILES = {
    1, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
#endif
