"""Estimate from the pixels how coarsely an image was quantized as JPEG."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from math import cos, pi

import numpy as np
from PIL import Image

# The luma table of the standard (ITU-T T.81, table K.1), which defines qualities.
_LUMA_STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_QUALITIES = np.arange(7, 46)
_COSINES = np.array(
    [[cos(pi * (2 * x + 1) * u / 16) * (0.5 if u else 8**-0.5) for x in range(8)] for u in range(8)],
    np.float32,
)
# Tolerance of a multiple. That of a block's mean is larger, because all pixels of a flat block round alike.
_SLACK, _SLACK_OF_MEANS = 1.6, 4.6
_ENOUGH, _PLENTY = 8, 200  # numbers of coefficients
_CERTAIN = 0.6  # fraction of multiples beyond chance
_SETTLED = 0.4  # maximum ratio of the recompression losses on the same and on shifted blocks


@cache
def _steps() -> np.ndarray:
    """Return the quantization steps (Q, 8, 8) at each quality."""
    return np.clip((_LUMA_STEPS * (5000 // _QUALITIES)[:, None, None] + 50) // 100, 1, 255).astype(np.float32)


def jpeg_coarseness(pixels: np.ndarray) -> float:
    """Return the factor on the standard tables (50 / quality, 1.1 to 7.1), or 0 without a trace of JPEG.

    In a decoded JPEG the coefficients of luma blocks are multiples of the steps (apart from rounding and
    clipping at 0 and 255), and compressing it again with the same quality changes little.

    Args:
        pixels: (H, W, 3) uint8; the sides are multiples of 8, and the image was not shifted.
    """
    height, width = pixels.shape[:2]
    blocked = height // 8, 8, width // 8, 8
    blocks_of = pixels.reshape(height // 8, 8, width // 8, 24)
    clipped = ((blocks_of.min((1, 3)) == 0) | (blocks_of.max((1, 3)) == 255)).ravel()
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) - 128
    blocks = luma.reshape(blocked).transpose(0, 2, 1, 3)
    coefficients = np.abs(_COSINES @ blocks @ _COSINES.T).reshape(-1, 8, 8)
    score = _multiples(coefficients[~clipped])
    if score.max() < _CERTAIN:
        return 0.0
    for index in np.nonzero(score >= max(score.max() - 0.1, _CERTAIN))[0]:  # the coarsest first
        if _settled(pixels, int(_QUALITIES[index])):
            return 50 / float(_QUALITIES[index])
    return 0.0


def _multiples(coefficients: np.ndarray) -> np.ndarray:
    """Return for each quality (Q,) how many coefficients (B, 8, 8) are multiples: 0 is chance, 1 is all."""
    block, row, column = np.nonzero(coefficients > 3)
    if len(block) < _ENOUGH:
        return np.zeros(len(_QUALITIES))
    # A few hundred coefficients are enough.
    subset = slice(None, None, max(1, len(block) // _PLENTY))
    block, row, column = block[subset], row[subset], column[subset]
    values = coefficients[block, row, column]
    steps = _steps()[:, row, column]  # (Q, M)
    allowed = np.where((row == 0) & (column == 0), _SLACK_OF_MEANS, _SLACK).astype(np.float32)
    times = np.rint(values / steps)
    hits = (np.abs(values - times * steps) < allowed) & (times > 0)
    chance = np.minimum(2 * allowed / steps, 1).mean(1)
    return (hits.mean(1) - chance) / (1 - chance + 1e-6)


def _settled(pixels: np.ndarray, quality: int) -> bool:
    """Return whether compressing again changes much less than with shifted blocks."""
    shifted = np.roll(pixels, (4, 4), (0, 1))
    return _loss(pixels, quality) < _SETTLED * _loss(shifted, quality)


def _loss(pixels: np.ndarray, quality: int) -> float:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    again = np.asarray(Image.open(file), np.float32)
    return float(np.square(again - pixels).mean())
