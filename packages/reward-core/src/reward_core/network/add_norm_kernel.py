"""A Triton kernel that adds a branch to the residual stream and normalizes the sum.

Import it only where Triton is installed (see fused_encoders.py).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm_kernel(
    stream,
    branch,
    weight,
    bias,
    normalized,
    width,
    eps,
    HAS_BRANCH: tl.constexpr,
    KEEP_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one row: the sum of stream and branch, and its LayerNorm.

    Args:
        stream: (R, width) float32. Replaced by the sum with KEEP_SUM, by the normalized sum without.
        branch: (R, width) in any dtype; added with HAS_BRANCH.
        weight, bias: (width,) float32 parameters of the LayerNorm.
        normalized: (R, width) in any dtype, receives the normalized sum.
        BLOCK: a power of two of at least ``width``.
    """
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(stream + row + column, mask=inside, other=0.0)
    if HAS_BRANCH:
        x += tl.load(branch + row + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / width
    centered = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centered * centered, axis=0) / width
    y = centered / tl.sqrt(variance + eps)
    y = y * tl.load(weight + column, mask=inside, other=0.0) + tl.load(bias + column, mask=inside, other=0.0)
    tl.store(normalized + row + column, y.to(normalized.dtype.element_ty), mask=inside)
    if KEEP_SUM:
        if HAS_BRANCH:
            tl.store(stream + row + column, x, mask=inside)
    else:
        tl.store(stream + row + column, y, mask=inside)
