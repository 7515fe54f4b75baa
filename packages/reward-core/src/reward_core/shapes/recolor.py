"""Give drawings random colors without names, so that shapes can be learned independently of colors."""

from __future__ import annotations

from dataclasses import replace
from math import dist

import numpy as np

from .appearance import RGB, nearest_color, nearest_shape, oklab, outline_distance, shape_outline
from .grammar import SHAPES
from .render import Drawing, Mark
from .split import combination_held_out

_CONTRAST = 0.15  # minimum distance from the background in OKLab
_SAME_SHAPE = 0.1  # an outline within this distance of a named shape's counts as that shape


def recolor(drawing: Drawing, rng: np.random.Generator) -> Drawing:
    """Return the drawing with a random color for each thing that contrasts with the background.

    The nearest color name never makes a held-out combination with the shape of the thing.
    """
    ends = zip(drawing.background.start, drawing.background.end)
    red, green, blue = ((start + end) / 2 for start, end in ends)
    return replace(drawing, marks=tuple(_recolored(mark, (red, green, blue), rng) for mark in drawing.marks))


def _recolored(mark: Mark, ground: RGB, rng: np.random.Generator) -> Mark:
    names = {name for name in SHAPES if outline_distance(mark.outline, shape_outline(name)) < _SAME_SHAPE}
    names.add(nearest_shape(mark.outline))
    while True:
        color = tuple((255 * rng.random(3)).tolist())
        named = nearest_color(color)
        if dist(oklab(color), oklab(ground)) > _CONTRAST and not any(
            combination_held_out(named, name) for name in names
        ):
            return replace(mark, color=color)
