// Products of matrices with AMX.

#include "vectors.h"

#ifdef HAS_TILES

#include <sys/syscall.h>
#include <unistd.h>

static const int64_t PANEL = 32;         // columns that are computed at once
static const int64_t DEPTH = 16;         // tiles in the depth that are multiplied at once: 32 kB of a panel
static const int64_t GROUP = 1024;       // tiles of the rows of a task: 1 MB, which the second cache holds
static const int64_t MAX_PANELS = 8;    // panels of a task
static const int64_t CACHED = 4 << 20;   // bytes of results up to which they are written through the cache

enum Kind { SIGNED, UNSIGNED };

// Sums (32, 32) that are written as sums * scale in bf16, a few rows at a time: between products, so that vector units
// work while tiles are multiplied.
struct Writer {
  const int32_t* sums = nullptr;
  const float* scale = nullptr;
  bf16* out = nullptr;
  int64_t stride = 0, rows = 0;  // of out; rows to write
  __mmask32 columns = 0;
  bool cached = false;

  // Write up to `limit` of the rows that are left.
  void write(int64_t limit) {
    __m512 low = _mm512_loadu_ps(scale), high = _mm512_loadu_ps(scale + 16);
    for (int64_t r = std::min(limit, rows); r > 0; r--, rows--, sums += PANEL, out += stride) {
      __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), low);
      __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16)), high);
      __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y, x);
      if (cached)
        _mm512_mask_storeu_epi16(out, columns, both);
      else
        _mm512_stream_si512((__m512i*)out, both);
    }
  }
};

template <Kind kind>
static inline void multiply_tiles(const char* a, int64_t a_stride, const char* b, int64_t depth, Writer& writer) {
  int64_t rows = (writer.rows + depth - 1) / depth;
  for (int64_t k = 0; k < depth; k++, a += TILE, b += 2 * TILE) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + TILE, 64);
    _tile_loadd(5, a + a_stride, 64);
    if (kind == SIGNED) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
    if (writer.rows) writer.write(rows);
  }
}

// A task: rows [first, last) in units of 32 and panels [panel, panel_end).
template <Kind kind>
static void multiply_task(const char* rows, const char* weight, const float* scale, bf16* out, int64_t count,
                          int64_t depth, int64_t columns, int64_t first, int64_t last, int64_t panel,
                          int64_t panel_end, int32_t* sums, bool cached) {
  Writer writer;
  for (; panel < panel_end; panel++)
    for (int64_t k = 0; k < depth; k += DEPTH) {
      int64_t tiles = std::min(DEPTH, depth - k);
      const char* b = weight + (panel * depth + k) * 2 * TILE;
      const char* next = b + tiles * 2 * TILE;  // the part of the weight that is needed next
      int64_t lines = tiles * 2 * TILE / 64, blocks = last - first;
      for (int64_t block = first; block < last; block++) {
        int64_t from = lines * (block - first) / blocks, to = lines * (block - first + 1) / blocks;
        for (int64_t line = from; line < to; line++) _mm_prefetch(next + line * 64, _MM_HINT_T1);
        int32_t* sum = sums + (block - first) * PANEL * PANEL;
        if (k) {
          _tile_loadd(0, sum, 128);
          _tile_loadd(1, sum + 16, 128);
          _tile_loadd(2, sum + 16 * PANEL, 128);
          _tile_loadd(3, sum + 16 * PANEL + 16, 128);
        } else {
          _tile_zero(0);
          _tile_zero(1);
          _tile_zero(2);
          _tile_zero(3);
        }
        multiply_tiles<kind>(rows + (block * 2 * depth + k) * TILE, depth * TILE, b, tiles, writer);
        _tile_stored(0, sum, 128);
        _tile_stored(1, sum + 16, 128);
        _tile_stored(2, sum + 16 * PANEL, 128);
        _tile_stored(3, sum + 16 * PANEL + 16, 128);
        if (k + DEPTH < depth) continue;
        int64_t width = columns - panel * PANEL;
        writer = {sum, scale + panel * PANEL, out + block * 32 * columns + panel * PANEL, columns,
                  std::min<int64_t>(32, count - block * 32), width < PANEL ? (1u << width) - 1 : ~0u, cached};
      }
    }
  writer.write(PANEL);
}

extern "C" {

// Ask Linux for the AMX registers. Returns whether it grants them.
int amx_is_granted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// Multiply levels (R, E), in tile order, by a weight (O, E).
//
// weight: panels of 32 columns; for each 64 inputs, a pair of tiles of 16 columns; in a tile, four consecutive
// inputs of each column. scale and weight have memory for whole panels.
// out: (R, O) bf16, the products times scale (O,). It starts at a cache line.
void multiply_int8(const char* rows, int is_unsigned, const char* weight, const float* scale, bf16* out,
                   int64_t count, int64_t inner, int64_t columns, int threads) {
  int64_t depth = inner / 64, blocks = (count + 31) / 32, panels = (columns + PANEL - 1) / PANEL;
  if (!count) return;
  int64_t groups = std::min(blocks, (blocks * 2 * depth + GROUP - 1) / GROUP);
  int64_t at_once = std::max<int64_t>(1, std::min(MAX_PANELS, panels * groups / (2 * threads)));
  int64_t tasks = (panels + at_once - 1) / at_once;  // of a group
  bool cached = count * columns * 2 <= CACHED || columns % PANEL;
#pragma omp parallel num_threads(threads)
  {
    _tile_loadconfig(&TILES);
    Buffer<int32_t> sums((blocks / groups + 1) * PANEL * PANEL);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < groups * tasks; task++) {
      int64_t group = task / tasks, panel = task % tasks * at_once;
      auto multiply = is_unsigned ? multiply_task<UNSIGNED> : multiply_task<SIGNED>;
      multiply(rows, weight, scale, out, count, depth, columns, blocks * group / groups,
               blocks * (group + 1) / groups, panel, std::min(panel + at_once, panels), sums.data(), cached);
    }
    _mm_sfence();
    _tile_release();
  }
}
}
#else
extern "C" int amx_is_granted() { return 0; }
#endif
