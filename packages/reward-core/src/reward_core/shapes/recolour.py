"""Drawings in colours that no prompt names, so that shapes can be learned apart from colours."""

from __future__ import annotations

from dataclasses import replace
from math import dist

import numpy as np

from .appearance import RGB, nearest_colour, nearest_shape, oklab, outline_distance, shape_outline
from .grammar import SHAPES
from .render import Drawing, Mark
from .split import combination_held_out

_CONTRAST = 0.15  # least distance in OKLab from the ground
_SAME_SHAPE = 0.1  # an outline this near a named shape's passes for it


def recolour(drawing: Drawing, rng: np.random.Generator) -> Drawing:
    """The drawing with each thing in any colour that stands out from the ground.

    No thing gets a colour whose nearest name makes a held-out combination with its shape.
    """
    ground = tuple((start + end) / 2 for start, end in zip(drawing.background.start, drawing.background.end))
    return replace(drawing, marks=tuple(_recoloured(mark, ground, rng) for mark in drawing.marks))


def _recoloured(mark: Mark, ground: RGB, rng: np.random.Generator) -> Mark:
    names = {name for name in SHAPES if outline_distance(mark.outline, shape_outline(name)) < _SAME_SHAPE}
    names.add(nearest_shape(mark.outline))
    while True:
        colour = tuple((255 * rng.random(3)).tolist())
        named = nearest_colour(colour)
        if dist(oklab(colour), oklab(ground)) > _CONTRAST and not any(
            combination_held_out(named, name) for name in names
        ):
            return replace(mark, colour=colour)
