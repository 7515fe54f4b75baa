"""Distinguish outlines in coarse JPEG images by rendering and compressing the candidates.

Coarse quantization changes an outline more than the named outlines differ, and differently in each case; but
candidates can be compressed in the same way at low cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from math import ceil, floor

import numpy as np
from PIL import Image, ImageFilter

from ..appearance import TURNS, shape_outline
from ..grammar import SHAPES
from ..render import Mark, fill

_RADII = (1.0, 1.12)  # quantization removes thin parts, so measured radii are too small
_BETTER = 0.9  # maximum ratio of errors at which a named outline replaces the measured one


def refit_marks(
    pixels: np.ndarray, plane: np.ndarray, marks: Sequence[Mark], coarseness: float, blur: float
) -> list[Mark]:
    """Return the marks with the named outlines that, after compression, are nearest to the pixels.

    Args:
        pixels: (H, W, 3) uint8.
        plane: (H, W, 3), background of the image.
        marks: first estimates in the shown colors.
        coarseness: see `jpeg_trace.jpeg_coarseness`.
        blur: sigma in pixels of the blur before compression.
    """
    marks = list(marks)
    for index, mark in enumerate(marks):
        canvas = plane.copy()
        for other in (*marks[:index], *marks[index + 1 :]):
            fill(canvas, other)
        box = _blocks(mark, len(plane))
        if box is None:
            continue

        def error(candidate: Mark, canvas=canvas, box=box) -> float:
            drawn = canvas.copy()
            fill(drawn, candidate)
            return _difference(drawn[box], pixels[box], coarseness, blur)

        tried = [
            replace(mark, outline=shape_outline(shape), radius=mark.radius * radius, turn=0.0)
            for shape in SHAPES
            for radius in _RADII
        ]
        errors = [error(candidate) for candidate in tried]
        for best in np.argsort(errors)[:2]:
            turn = np.deg2rad(TURNS[SHAPES[best // len(_RADII)]])
            turned = [replace(tried[best], turn=float(sign * 0.6 * turn)) for sign in (-1, 1) if turn]
            tried += turned
            errors += [error(candidate) for candidate in turned]
        best = int(np.argmin(errors))
        if errors[best] < _BETTER * error(mark):
            marks[index] = tried[best]
    return marks


def _blocks(mark: Mark, size: int) -> tuple[slice, slice] | None:
    """Return the rows and columns of the 8 x 8 blocks that the mark may touch, or None if there are none."""
    left, top, right, bottom = mark.box
    rows, columns = (
        slice(max(0, 8 * floor((size * low - 2) / 8)), min(size, 8 * ceil((size * high + 2) / 8)))
        for low, high in ((top, bottom), (left, right))
    )
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _difference(drawn: np.ndarray, pixels: np.ndarray, coarseness: float, blur: float) -> float:
    image = Image.fromarray(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))
    if blur > 0.4:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    file = BytesIO()
    image.save(file, "JPEG", quality=round(50 / coarseness), subsampling="4:4:4")
    again = np.asarray(Image.open(file), np.float32)
    return float(np.square(again - pixels).mean())
