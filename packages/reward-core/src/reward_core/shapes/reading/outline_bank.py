"""Templates of the named outlines after blur, rotation and being cut off by the frame.

`soft_outline` measures an outline on a cover, the fraction of each pixel that a thing fills. Blur rounds
outlines and the frame cuts them; instead of undoing that, outlines are compared with templates with the same
blur and cut. `templates` renders them once, in 0.1 to 0.2 seconds each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import pi

import numpy as np

from ..appearance import ANGLES, OUTLINE_STEPS, TURNS, shape_outline
from ..grammar import SHAPES

FRAME_SIDES = ("left", "right", "top", "bottom")
#: Sigma of the templates' blur in radii of the thing; a small thing with full blur has 0.3.
SOFTNESS = np.array([0.03, 0.08, 0.13, 0.18, 0.24, 0.30, 0.38, 0.48])
#: Fractions of the width or height outside the frame.
CUT_SHARES = np.array([0.05, 0.1, 0.16, 0.22, 0.28, 0.34, 0.4, 0.46])

_TURNS = np.linspace(-1, 1, 7)  # fractions of the maximum rotation of each shape
_FIELD, _RADIUS = 96, 20.0  # side and radius of the templates in pixels
_COS, _SIN = np.cos(ANGLES), -np.sin(ANGLES)  # y points down


def soft_outline(cover: np.ndarray, x: float, y: float, reach: float, step: float = 0.5) -> np.ndarray:
    """Return the distances (120,) in pixels from (x, y) to the edge of a thing.

    In each direction it is the radius of a sector with the same area as the covered part: the square root of
    twice the integral of cover times radius. So it is as exact for soft edges as for hard ones.

    Args:
        cover: (H, W) in [0, 1]; 0 outside.
        x, y: pixels from the top left corner.
        reach: maximum distance.
        step: step of the integral.
    """
    radii = np.arange(step / 2, reach, step, dtype=np.float32)  # (R,)
    across = (x - 0.5 + np.outer(_COS, radii)).astype(np.float32)  # (120, R), in pixel centers
    down = (y - 0.5 + np.outer(_SIN, radii)).astype(np.float32)
    column, row = np.floor(across).astype(np.int32), np.floor(down).astype(np.int32)
    right, low = across - column, down - row  # bilinear weights
    height, width = cover.shape
    padded = np.zeros((height + 4, width + 4), np.float32)
    padded[2:-2, 2:-2] = cover
    stride = width + 4
    at = np.clip(row + 2, 0, height + 2) * stride + np.clip(column + 2, 0, width + 2)
    values = padded.ravel()
    upper = values[at] * (1 - right) + values[at + 1] * right
    lower = values[at + stride] * (1 - right) + values[at + stride + 1] * right
    covered = upper * (1 - low) + lower * low
    return np.sqrt(2 * step * (covered * radii).sum(1))


@dataclass(frozen=True, eq=False)
class Templates:
    """The templates for one side of the frame.

    Axes: F softness, S shapes, T rotations, C cut fractions. A visible radius is the radius of the circle
    with the visible area.

    Attributes:
        outlines: (F, S, T, C, 120), outline of the visible part from its centroid, with unit area.
        edges: (F, S, T, C), sum of cover * (1 - cover) over the visible area; increases with softness.
        centers: (F, S, T, C, 2), from the visible centroid to the thing's center, in visible radii.
        radii: (F, S, T, C), radius of the thing in visible radii.
        turns: (S, T), rotations in radians.
        shares: (C,), cut fractions.
    """

    outlines: np.ndarray
    edges: np.ndarray
    centers: np.ndarray
    radii: np.ndarray
    turns: np.ndarray
    shares: np.ndarray


@cache
def templates(side: str | None) -> Templates:
    """Return the templates of things cut off at one of `FRAME_SIDES`, or of whole things for None."""
    shares = np.zeros(1) if side is None else CUT_SHARES
    turned = _TURNS if side is None else _TURNS[::3]
    axes = len(SOFTNESS), len(SHAPES), len(turned), len(shares)
    outlines, edges = np.zeros((*axes, OUTLINE_STEPS), np.float32), np.zeros(axes)
    centers, radii = np.zeros((*axes, 2)), np.zeros(axes)
    turns = np.array([[np.deg2rad(TURNS[shape]) * turn for turn in turned] for shape in SHAPES])
    for s, shape in enumerate(SHAPES):
        for t, turn in enumerate(turns[s]):
            if t and TURNS[shape] == 0:
                for table in (outlines, edges, centers, radii):
                    table[:, s, t] = table[:, s, 0]
                continue
            hard = _hard_cover(shape, turn)
            for f, softness in enumerate(SOFTNESS):
                cover = np.clip(_blurred(hard, softness * _RADIUS), 0, 1)
                for c, share in enumerate(shares):
                    seen = cover if side is None else cover * _inside(hard, side, share)
                    entry = f, s, t, c
                    outlines[entry], edges[entry], centers[entry], radii[entry] = _measures(seen)
    return Templates(outlines, edges, centers, radii, turns, shares)


_STEPS = np.arange(_FIELD) + 0.5 - _FIELD / 2
_ACROSS, _DOWN = np.meshgrid(_STEPS, _STEPS)


def _hard_cover(shape: str, turn: float) -> np.ndarray:
    angle = ((np.arctan2(-_DOWN, _ACROSS) - turn) % (2 * pi)) / (2 * pi / OUTLINE_STEPS)
    before, part = np.floor(angle).astype(int) % OUTLINE_STEPS, angle % 1
    outline = shape_outline(shape)
    edge = outline[before] * (1 - part) + outline[(before + 1) % OUTLINE_STEPS] * part
    return np.clip(_RADIUS * edge - np.hypot(_ACROSS, _DOWN) + 0.5, 0, 1)


def _blurred(cover: np.ndarray, sigma: float) -> np.ndarray:
    response = np.exp(-2 * (pi * sigma * np.fft.fftfreq(_FIELD)) ** 2)
    spectrum = np.fft.rfft2(cover) * response[:, None] * response[: _FIELD // 2 + 1]
    return np.fft.irfft2(spectrum, s=cover.shape)


def _inside(hard: np.ndarray, side: str, share: float) -> np.ndarray:
    """Return the mask of the frame's inside if the frame cuts off `share` of the thing at a side."""
    along = _ACROSS if side in ("left", "right") else _DOWN
    low, high = along[hard > 0.5].min() - 0.5, along[hard > 0.5].max() + 0.5
    if side in ("left", "top"):
        return along > low + share * (high - low)
    return along < high - share * (high - low)


def _measures(seen: np.ndarray) -> tuple[np.ndarray, float, tuple[float, float], float]:
    area = float(seen.sum())
    x, y = float((seen * _ACROSS).sum()) / area, float((seen * _DOWN).sum()) / area
    radius = (area / pi) ** 0.5
    outline = soft_outline(seen.astype(np.float32), x + _FIELD / 2, y + _FIELD / 2, 2.3 * _RADIUS, 1.0)
    edge = float((seen * (1 - seen)).sum()) / area
    return outline / np.mean(outline**2) ** 0.5, edge, (-x / radius, -y / radius), _RADIUS / radius
