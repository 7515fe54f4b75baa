"""The Triton kernels of channels_last_norm.py. Import it only where Triton is installed.

Shapes: B images of P pixels, G groups of D channels; a tensor in channels-last order is (B, P, G, D). Each
image is split into N chunks of ``span`` pixels, of which the last may be shorter.

A program computes BLOCK_G groups; BLOCK_D is a power of two of at least D.
"""

from __future__ import annotations

import triton
import triton.language as tl


# Numbers that change with the size of the images do not compile the kernels again.
@triton.jit(do_not_specialize=["pixels", "span", "chunks"])
def chunk_statistics(
    x,
    means,
    squares,
    pixels,
    span,
    chunks,
    groups,
    D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute the mean of a chunk's groups, and their sum of squared differences from that mean.

    Tiles of BLOCK_P pixels are merged by the formula of Chan et al., which does not cancel.

    Args:
        x: (B, P, G, D) in half precision.
        means, squares: (B, N, G) float32, receive the result.
    """
    image = tl.program_id(2).to(tl.int64)
    group = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    channel = tl.arange(0, BLOCK_D)
    column = group[None, :, None] * D + channel[None, None, :]
    valid = (group < groups)[None, :, None] & (channel < D)[None, None, :]
    source = x + image * pixels * (groups * D)
    start = tl.program_id(0) * span
    stop = tl.minimum(start + span, pixels)
    mean = tl.zeros((BLOCK_G,), tl.float32)
    square = tl.zeros((BLOCK_G,), tl.float32)
    for first in range(start, stop, BLOCK_P):
        pixel = first + tl.arange(0, BLOCK_P)
        inside = valid & (pixel < stop)[:, None, None]
        value = tl.load(source + (pixel[:, None, None] * (groups * D) + column), mask=inside, other=0.0)
        value = value.to(tl.float32)
        seen = ((first - start) * D).to(tl.float32)
        count = (tl.minimum(stop - first, BLOCK_P) * D).to(tl.float32)
        tile_mean = tl.sum(tl.sum(value, axis=2), axis=0) / count
        centered = tl.where(inside, value - tile_mean[None, :, None], 0.0)
        tile_square = tl.sum(tl.sum(centered * centered, axis=2), axis=0)
        difference = tile_mean - mean
        mean += difference * (count / (seen + count))
        square += tile_square + difference * difference * (seen * (count / (seen + count)))
    target = (image * chunks + tl.program_id(0)) * groups + group
    tl.store(means + target, mean, mask=group < groups)
    tl.store(squares + target, square, mask=group < groups)


@triton.jit(do_not_specialize=["pixels", "span", "chunks"])
def normalize(
    x,
    target,
    means,
    squares,
    weight,
    bias,
    pixels,
    span,
    chunks,
    groups,
    eps,
    D: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MOST_CHUNKS: tl.constexpr,
):
    """Merge the statistics of the chunks, and normalize BLOCK_P pixels.

    Args:
        x: (B, P, G, D) in half precision.
        target: (B, P, G, D) in half precision, receives the result.
        means, squares: (B, N, G) float32 of `chunk_statistics`.
        weight, bias: (G, D) parameters in any dtype, read with HAS_WEIGHT and HAS_BIAS.
        SILU: apply SiLU to the result.
        MOST_CHUNKS: a power of two of at least N.
    """
    image = tl.program_id(2).to(tl.int64)
    group = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    chunk = tl.arange(0, MOST_CHUNKS)
    known = (chunk < chunks)[:, None] & (group < groups)[None, :]
    at = (image * chunks + chunk[:, None]) * groups + group[None, :]
    chunk_mean = tl.load(means + at, mask=known, other=0.0)
    chunk_square = tl.load(squares + at, mask=known, other=0.0)
    size = tl.minimum(tl.maximum(pixels - chunk * span, 0), span)  # 0 beyond the last chunk
    share = (size.to(tl.float32) / pixels)[:, None]
    mean = tl.sum(chunk_mean * share, axis=0)
    difference = chunk_mean - mean[None, :]
    variance = tl.sum(chunk_square / (pixels * D) + difference * difference * share, axis=0)
    scale = 1.0 / tl.sqrt(variance + eps)

    channel = tl.arange(0, BLOCK_D)
    column = group[None, :, None] * D + channel[None, None, :]
    valid = (group < groups)[None, :, None] & (channel < D)[None, None, :]
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = valid & (pixel < pixels)[:, None, None]
    offset = image * pixels * (groups * D)
    within = pixel[:, None, None] * (groups * D) + column
    value = tl.load(x + offset + within, mask=inside, other=0.0).to(tl.float32)
    value = (value - mean[None, :, None]) * scale[None, :, None]
    if HAS_WEIGHT:
        value *= tl.load(weight + column, mask=valid, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + column, mask=valid, other=0.0).to(tl.float32)
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    tl.store(target + offset + within, value.to(target.dtype.element_ty), mask=inside)
