"""PIL's bicubic resampling: the source pixels and weights of each target pixel.

PIL resizes 8-bit images in two passes (usually horizontal, then vertical). Each pass uses fixed-point weights
and rounds its result to 8 bits. With the weights, this module computes any window of a resized image without
the rest of it, and differentiates through the resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

PRECISION_BITS = 22  # as in PIL: 32 bits minus 8 for the pixel minus 2 of headroom
_SUPPORT = 2.0  # support of the cubic kernel, in source pixels when enlarging
_A = -0.5  # parameter of the kernel (Keys 1981)


@dataclass(frozen=True)
class Taps:
    """Weights of T target pixels along one axis.

    Attributes:
        first: (T,) index of the first source pixel of each target pixel.
        weights: (T, K) float64; rows sum to 1 and are padded with zeros.
    """

    first: np.ndarray
    weights: np.ndarray

    @property
    def fixed_point(self) -> np.ndarray:
        """Weights as PIL's fixed-point integers for 8-bit pixels, (T, K) int64."""
        scaled = self.weights * (1 << PRECISION_BITS)
        return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64)

    @property
    def indices(self) -> np.ndarray:
        """Source index of every weight, (T, K), clamped where the weight is 0."""
        last = self.first + np.maximum((self.weights != 0).cumsum(1).argmax(1), 0)
        return np.minimum(self.first[:, None] + np.arange(self.weights.shape[1]), last[:, None])


@lru_cache(maxsize=512)
def bicubic_taps(source: int, target: int, start: int = 0, stop: int | None = None) -> Taps:
    """Return the weights for resizing ``source`` pixels to ``target`` pixels.

    They are for target pixels ``start`` to ``stop`` only. When shrinking, the kernel is widened by the
    scaling factor (antialiasing).
    """
    scale = source / target
    widen = max(scale, 1.0)
    reach = _SUPPORT * widen
    center = (np.arange(start, target if stop is None else stop) + 0.5) * scale  # (T,)
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((center + reach + 0.5).astype(np.int64), source)
    offsets = np.arange(int((end - first).max()))  # (K,)
    distance = (offsets[None, :] + first[:, None] - center[:, None] + 0.5) * (1.0 / widen)  # (T, K)
    weights = np.where(offsets[None, :] < (end - first)[:, None], _cubic(np.abs(distance)), 0.0)
    # A running sum adds in the same order as PIL, so the last bit is equal.
    total = np.cumsum(weights, axis=1)[:, -1:]
    return Taps(first, weights / total)


def _cubic(x: np.ndarray) -> np.ndarray:
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def nearest_indices(source: int, target: int, start: int, stop: int) -> np.ndarray:
    """Return the source index of each target pixel in PIL's nearest-neighbor resize.

    Returns:
        (stop - start,) int64.
    """
    step = source / target
    if stop <= 1 << 24:  # PIL adds the step for each pixel, which accumulates rounding errors
        positions = np.cumsum(np.concatenate([[step * 0.5], np.full(stop - 1, step)]))[start:]
    else:  # larger than PIL can resize
        positions = (np.arange(start, stop) + 0.5) * step
    return np.clip(positions.astype(np.int64), 0, source - 1)


def is_vertical_first(size: tuple[int, int], new_size: tuple[int, int]) -> bool:
    """Return whether Pillow runs the vertical pass of a resize first.

    Pillow 13 does if it removes more than twice as many rows as columns, because that is faster; earlier
    versions do not. Each pass rounds, so the results differ by some levels.

    Args:
        size: (width, height) of the image.
        new_size: (width, height) after resizing.
    """
    columns, rows = (old - new for old, new in zip(size, new_size))
    return rows > max(0, 2 * columns) and _pillow_orders_passes()


@lru_cache(maxsize=1)
def _pillow_orders_passes() -> bool:
    """Return whether this version of Pillow ever runs the vertical pass first, from a small image."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 20), dtype=np.uint8))
    vertical_first = image.resize((20, 30), Image.Resampling.BICUBIC).resize(
        (10, 30), Image.Resampling.BICUBIC
    )
    return image.resize((10, 30), Image.Resampling.BICUBIC).tobytes() == vertical_first.tobytes()


def _half_away_from_zero(total: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(total) + 0.5), total)


# PIL's single-channel modes of more than 8 bits use float weights. Their pass results are stored like this.
DEEP_ROUNDING = {
    "I;16": lambda total: np.clip(_half_away_from_zero(total), 0, 65535).astype(np.uint16),
    "I": lambda total: _half_away_from_zero(total).astype(np.int32),
    "F": lambda total: total.astype(np.float32),
}


def resize_window(
    pixels: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int], mode: str = "RGB"
) -> np.ndarray:
    """Return the window ``box`` of an enlarged image without computing the rest.

    The horizontal pass comes first, as in every version of Pillow when enlarging.

    Args:
        pixels: (H, W, C), uint8 or numpy's dtype of the mode.
        size: (width, height) of the whole resized image.
        box: (left, top, right, bottom) in the resized image.
        mode: PIL mode of the pixels; DEEP_ROUNDING has those of more than 8 bits.

    Returns:
        (bottom - top, right - left, C) of the same dtype, equal to PIL's resize and crop.
    """
    height, width, _ = pixels.shape
    left, top, right, bottom = box
    rows = None
    if size[1] == height:
        pixels = pixels[top:bottom]
    else:  # use only the source rows that the window needs
        rows = bicubic_taps(height, size[1], top, bottom)
        first_row = int(rows.indices.min())
        pixels = pixels[first_row : int(rows.indices.max()) + 1]
    if size[0] == width:
        pixels = pixels[:, left:right]
    else:
        columns = bicubic_taps(width, size[0], left, right)
        pixels = _pass(pixels.transpose(1, 0, 2), columns.indices, columns, mode).transpose(1, 0, 2)
    if rows is not None:
        pixels = _pass(pixels, rows.indices - first_row, rows, mode)
    return np.ascontiguousarray(pixels)


def _pass(pixels: np.ndarray, indices: np.ndarray, taps: Taps, mode: str) -> np.ndarray:
    """Resize (S, R, C) to (T, R, C) along the first axis, in PIL's arithmetic."""
    deep = mode in DEEP_ROUNDING
    weights = taps.weights if deep else taps.fixed_point
    total = np.zeros((len(indices), *pixels.shape[1:]), dtype=weights.dtype)
    for k in range(indices.shape[1]):
        total += pixels[indices[:, k]] * weights[:, k, None, None]
    if deep:
        return DEEP_ROUNDING[mode](total)
    half = 1 << (PRECISION_BITS - 1)
    return np.clip((total + half) >> PRECISION_BITS, 0, 255).astype(np.uint8)
