"""Labels of images patch by patch, for pre-training a vision encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, log

import numpy as np

from .appearance import oklab, outline_distance, shape_outline
from .faults import CLEANLINESS, Fault
from .grammar import SHAPES
from .render import Drawing, Mark

#: The columns of `Annotation.patches`. In patches without a thing all are 0.
PATCH_COLUMNS = ("thing", "lightness", "a", "b", *SHAPES, "size", "x", "y", "other_x", "other_y")

# Scales that give color, shape, size and position about the same weight in a sum of differences.
_COLOR_SCALE = np.array([1.0, 2.0, 2.0])
_SHAPE_SCALE, _SIZE_SCALE, _POSITION_SCALE, _WAY_SCALE = 0.8, 3.0, 2.0, 0.7
_MIDDLE_RADIUS = 0.12


@dataclass(frozen=True, eq=False)
class Annotation:
    """The labels of an image.

    Attributes:
        patches: (G * G, 14) float32, row by row, with the columns of `PATCH_COLUMNS`: 1 in patches with a
            thing, then its color (OKLab), its outline's distance to each named shape, its size (logarithm),
            its center, and the direction to the nearest other thing (0, 0 if there is none).
        strengths: (6,) float32, strength of each fault of `CLEANLINESS`; 0 for none.
    """

    patches: np.ndarray
    strengths: np.ndarray


def annotate(drawing: Drawing, faults: Sequence[Fault], grid: int) -> Annotation:
    """Return the labels of a drawing with faults, on a grid of `grid` x `grid` patches.

    A patch belongs to the nearest thing whose radius (times 1.2, but at least half a patch's diagonal)
    reaches the center of the patch.
    """
    centers = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(centers, centers)  # (G, G)
    patches = np.zeros((grid, grid, len(PATCH_COLUMNS)), np.float32)
    nearest = np.full(x.shape, np.inf)
    for mark in drawing.marks:
        distance = np.hypot(x - mark.x, y - mark.y)
        reach = max(1.2 * mark.radius, hypot(0.5, 0.5) / grid)
        covered = (distance < reach) & (distance < nearest)
        nearest[covered] = distance[covered]
        patches[covered] = _row(mark, [other for other in drawing.marks if other is not mark])
    strengths = np.zeros(len(CLEANLINESS), np.float32)
    for fault in faults:
        if fault.kind in CLEANLINESS:
            strengths[CLEANLINESS.index(fault.kind)] = fault.strength
    return Annotation(patches.reshape(grid * grid, -1), strengths)


def _row(mark: Mark, others: Sequence[Mark]) -> list[float]:
    color = _COLOR_SCALE * oklab(mark.color)
    shape = [_SHAPE_SCALE * outline_distance(mark.outline, shape_outline(name)) for name in SHAPES]
    size = _SIZE_SCALE * log(mark.radius / _MIDDLE_RADIUS)
    position = [_POSITION_SCALE * (mark.x - 0.5), _POSITION_SCALE * (mark.y - 0.5)]
    steps = [(other.x - mark.x, other.y - mark.y) for other in others]
    dx, dy = min(steps, key=lambda step: hypot(*step), default=(0.0, 0.0))
    distance = max(hypot(dx, dy), 1e-6)
    return [1.0, *color, *shape, size, *position, _WAY_SCALE * dx / distance, _WAY_SCALE * dy / distance]
