"""Sizes to which the Qwen processors resize images."""

from __future__ import annotations

import math

from ...inputs.image_file import UnfitImageError

MOST_RATIO = 200  # of the sides of an image


def fitted_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Return (height, width) in multiples of a factor, with a number of pixels in a budget.

    Sides are rounded to the nearest multiple. If the product is outside the budget, they are scaled to it and
    rounded down or up. A long strip that is rounded up may exceed the budget. Source: smart_resize of the
    Qwen processors.

    Args:
        height, width: sides of the image.
        factor: the sides become multiples of it.
        least, most: budget in pixels.

    Raises:
        UnfitImageError: the ratio of the sides is over 200.
    """
    if max(height, width) > MOST_RATIO * min(height, width):
        raise UnfitImageError(
            f"its sides, {width} x {height}, have a ratio over {MOST_RATIO}. Crop it or leave it out"
        )
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > most:
        scale = math.sqrt(height * width / most)
        return _floor(height / scale, factor), _floor(width / scale, factor)
    if new_height * new_width < least:
        scale = math.sqrt(least / (height * width))
        return _ceil(height * scale, factor), _ceil(width * scale, factor)
    return new_height, new_width


def _floor(side: float, factor: int) -> int:
    return max(factor, math.floor(side / factor) * factor)


def _ceil(side: float, factor: int) -> int:
    return math.ceil(side / factor) * factor
