"""PIL's bicubic resize on a CUDA GPU, in the same integer arithmetic.

Both passes use PIL's 22-bit weights and round to 8 bits in between, so the result equals PIL's exactly. The
kernel is written in Triton, which comes with torch for CUDA on Linux.

Shapes: B images of one size, H, W their height and width, C = 3 or 4 levels per pixel in memory, S side.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import bicubic

_BLOCK = 1024  # target levels computed by one program


def resized_on_device(levels: Tensor, new_size: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """Return ``image.resize(new_size, BICUBIC).crop(box)`` of RGB images.

    Args:
        levels: (B, H, W, C) uint8 on the GPU; the first 3 of the C levels of a pixel are used.
        new_size: (width, height) after resizing, not larger than the images.
        box: (left, top, right, bottom) of the crop.

    Returns:
        (B, bottom - top, right - left, 3) uint8.
    """
    height, width = levels.shape[1:3]
    (new_width, new_height), (left, top, right, bottom) = new_size, box
    passes = [(2, width, new_width, left, right), (1, height, new_height, top, bottom)]
    if bicubic.is_vertical_first((width, height), new_size):
        passes.reverse()
    for axis, source, target, start, stop in passes:
        levels = (
            levels.narrow(axis, start, stop - start)
            if source == target
            else _one_pass(levels, axis, *_taps_on(source, target, start, stop, levels.device))
        )
    return levels[..., :3]


def _one_pass(levels: Tensor, axis: int, first: Tensor, weights: Tensor) -> Tensor:
    """Resize levels (B, H, W, C) along axis 1 or 2 to T pixels.

    Args:
        levels: uint8.
        axis: 1 for the height, 2 for the width.
        first: (T,) int32, index of the first source pixel of each target pixel.
        weights: (T, K) int32.
    """
    levels = levels.contiguous()
    shape = [*levels.shape]
    # As a three-dimensional array: everything before the axis, the axis, everything after it.
    inner = shape[3] if axis == 2 else shape[2] * shape[3]
    length, shape[axis] = shape[axis], len(first)
    target = torch.empty(shape, dtype=torch.uint8, device=levels.device)
    count = target.numel()
    from .resize_kernel import resize_pass

    resize_pass[(-(-count // _BLOCK),)](
        levels, target, first, weights, count, inner, length, len(first), weights.shape[1], BLOCK=_BLOCK
    )
    return target


@lru_cache(maxsize=1024)
def _taps_on(source: int, target: int, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the taps of one pass as int32 tensors (T,) and (T, K) on a device.

    Weights of 0 pad the rows; their source pixels are never read.
    """
    taps = bicubic.bicubic_taps(source, target, start, stop)
    arrays = (taps.first.astype(np.int32), taps.fixed_point.astype(np.int32))
    with torch.inference_mode(False):
        first, weights = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
    return first, weights
