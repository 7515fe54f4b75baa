"""Render drawings to pixels: a background with anti-aliased shapes.

Each shape is drawn as a polygon with 8 x 8 subpixels per pixel (4 x 4 above 128 pixels) and averaged. Only
the area around a shape is computed, so a 64-pixel image takes a fraction of a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor

import numpy as np
from PIL import Image, ImageDraw

from .appearance import ANGLES, RGB

MIN_SIDE = 16  # pixels; below this a small thing is less than three pixels wide
_UNIT = np.stack([np.cos(ANGLES), -np.sin(ANGLES)])  # (2, 120); y runs down, angles run counter-clockwise


@dataclass(frozen=True, eq=False)
class Mark:
    """One drawn thing. Lengths are fractions of the image's side; x points right, y points down."""

    color: RGB  # in [0, 255]
    outline: np.ndarray  # (120,), unit-circle area, upright
    radius: float
    turn: float  # radians, counter-clockwise
    x: float
    y: float

    @cached_property
    def edge(self) -> np.ndarray:
        """Points (2, 120) of the edge relative to the center."""
        points = _UNIT * (self.radius * self.outline)
        if self.turn == 0:
            return points
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.array([[c, s], [-s, c]]) @ points

    @cached_property
    def reach(self) -> tuple[float, float, float, float]:
        """Distances (left, right, up, down) of the edge from the center, each > 0."""
        (left, up), (right, down) = self.edge.min(axis=1).tolist(), self.edge.max(axis=1).tolist()
        return -left, right, -up, down

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom); it exceeds [0, 1] if the mark is cut off."""
        left, right, up, down = self.reach
        return self.x - left, self.y - up, self.x + right, self.y + down


@dataclass(frozen=True)
class Background:
    """A plain background, or a linear gradient from `start` to `end` in the direction (dx, dy)."""

    start: RGB
    end: RGB
    direction: tuple[float, float]  # unit vector


@dataclass(frozen=True)
class Drawing:
    """A complete description of an image; rendering it is deterministic."""

    background: Background
    marks: tuple[Mark, ...]


def check_side(size: int) -> None:
    """Raise ValueError unless `size` is an integer of at least 16."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < MIN_SIDE:
        raise ValueError(f"size must be an integer of at least {MIN_SIDE} (pixels), got {size!r}")


def rasterize(drawing: Drawing, size: int = 64) -> np.ndarray:
    """Render a drawing to pixels (size, size, 3), uint8. Raise ValueError if size is below 16."""
    check_side(size)
    canvas = _ground(drawing.background, size)
    for mark in drawing.marks:
        fill(canvas, mark)
    return np.rint(canvas).astype(np.uint8)


def _ground(background: Background, size: int) -> np.ndarray:
    start = np.asarray(background.start, np.float32)
    if background.start == background.end:
        canvas = np.empty((size, size, 3), np.float32)
        canvas[:] = start
        return canvas
    step = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    dx, dy = background.direction
    # Scaled so that the farthest corners are exactly `start` and `end`.
    ramp = 0.5 + (dx * step[None, :] + dy * step[:, None]) / (abs(dx) + abs(dy))  # (size, size)
    change = np.asarray(background.end, np.float32) - start
    return start + ramp[..., None].astype(np.float32) * change


def fill(canvas: np.ndarray, mark: Mark) -> None:
    """Blend a mark into the canvas (size, size, 3), in place; parts outside are cropped."""
    size = len(canvas)
    left, top, right, bottom = (size * bound for bound in mark.box)
    x0, y0 = max(0, floor(left)), max(0, floor(top))
    x1, y1 = min(size, ceil(right)), min(size, ceil(bottom))
    if x0 >= x1 or y0 >= y1:
        return
    fine = 8 if size <= 128 else 4
    points = (mark.edge.T * size + (size * mark.x - x0, size * mark.y - y0)) * fine - 0.5
    patch = Image.new("L", ((x1 - x0) * fine, (y1 - y0) * fine))
    ImageDraw.Draw(patch).polygon(np.rint(points).ravel().tolist(), fill=255)
    cover = np.asarray(patch.reduce(fine), np.float32)[..., None] / 255
    under = canvas[y0:y1, x0:x1]
    under += cover * (np.asarray(mark.color, np.float32) - under)
