"""The Triton kernel of device_resize.py. Import it only where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def resize_pass(source, target, first, weights, count, inner, length, width, taps, BLOCK: tl.constexpr):
    """Compute one pass of PIL's 8-bit resize along the middle axis of a three-dimensional array.

    Args:
        source: (outer, length, inner) uint8.
        target: (outer, width, inner) uint8, with ``count`` levels.
        first: (width,) int32, index of the first source level of each target level.
        weights: (width, taps) int32, PIL's weights with 22 fractional bits; 0 pads the rows.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    level = index % inner
    position = (index // inner) % width
    outer = index // (inner * width)
    begin = tl.load(first + position, mask=inside, other=0)
    total = tl.full((BLOCK,), 2097152, tl.int32)  # half of 2**22 rounds to the nearest level
    for tap in range(taps):
        weight = tl.load(weights + position * taps + tap, mask=inside, other=0)
        at = (outer * length + begin + tap) * inner + level
        value = tl.load(source + at, mask=inside & (weight != 0), other=0)
        total += weight * value.to(tl.int32)
    result = tl.minimum(tl.maximum(total >> 22, 0), 255)
    tl.store(target + index, result.to(tl.uint8), mask=inside)
