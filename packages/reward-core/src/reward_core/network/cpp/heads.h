// Arguments of attention.

#pragma once

#include "vectors.h"

static const int64_t HEAD = 64;                       // width of a head
static const float PER_SCORE = 0.125f * 1.44269504f;  // 1 / sqrt(HEAD) / log(2)

extern "C" {

// Queries, keys or values (B, N, 64 H): numbers, or numbers * steps + shift if there are steps.
struct Heads {
  const bf16* numbers;
  const float *steps, *shift;    // (B N,); (B, 64 H) or (64 H,); both or neither
  int64_t rows;                  // N
  int64_t stride, image_stride;  // of numbers, from a row and an image to the next
  int64_t shift_stride;          // of the shift, from an image to the next
};
}

// Queries, keys or values of one head of one image.
struct HeadRows {
  const bf16* numbers;
  const float *steps, *shift;
  int64_t count, stride;

  HeadRows(const Heads& heads, int64_t image, int64_t head)
      : numbers(heads.numbers + image * heads.image_stride + head * HEAD),
        steps(heads.steps ? heads.steps + image * heads.rows : nullptr),
        shift(heads.shift ? heads.shift + image * heads.shift_stride + head * HEAD : nullptr), count(heads.rows),
        stride(heads.stride) {}

  // A row; zeros after the last one.
  const bf16* row(int64_t n) const {
    alignas(64) static const bf16 zeros[HEAD] = {};
    return n < count ? numbers + n * stride : zeros;
  }
};
