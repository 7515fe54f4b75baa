"""The known truth of an image: how well it fits its prompt, and how clean it is.

One rule serves every attribute. What is shown lies at some distance from what the prompt names; the distance
is measured in units of half the way to the nearest other name, and `fit` turns it into a factor. So 1 means
"as named", 0.5 means "as near to another name", and a plain swap of one name gives 0.25 to 0.29 whether it is
a color, a shape, a size or a relation. Nothing here looks at a fault: the functions take what is shown, so
whatever reads the same things out of pixels agrees with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from math import acos, degrees, dist, exp, hypot, log
from typing import Protocol

import numpy as np

from .appearance import PALETTE, RADII, RADIUS_JITTER, RGB, oklab, outline_distance, shape_outline
from .grammar import SHAPES, Scene, Thing

#: Unit vector from the second thing to the first; x runs right, y runs down.
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
RELATION_TOLERANCE = 20.0  # degrees off the axis at which a relation still holds without doubt
MISSING_FACTOR = 0.2  # for one of two things missing; with no named thing at all, alignment is 0
EXTRA_RADII = (0.035, RADII["small"])  # an extra thing of the first radius is a speck, of the second a thing
CLEANLINESS_LOSS = 0.75  # what a full-strength cleanliness fault takes away


class Shown(Protocol):
    """One thing in an image: drawn on purpose, or found by whatever reads images."""

    @property
    def color(self) -> RGB: ...  # in [0, 255]
    @property
    def outline(self) -> np.ndarray: ...  # (120,) upright, as in `appearance.shape_outline`
    @property
    def radius(self) -> float: ...  # of the circle of the same area, share of the image's side
    @property
    def x(self) -> float: ...  # center, share of the image's side from the left
    @property
    def y(self) -> float: ...  # center, share of the image's side from the top


@dataclass(frozen=True)
class Truth:
    """alignment, cleanliness and utility, each in [0, 1]; build it with `Truth.of`."""

    alignment: float
    cleanliness: float
    utility: float

    @classmethod
    def of(cls, alignment: float, cleanliness: float) -> Truth:
        """utility = alignment * (0.4 + 0.6 * cleanliness).

        The prompt comes first, as it does for people: a right image, however dirty, keeps 0.4 and stays
        above a spotless image with a plainly wrong attribute (0.29 at most).
        """
        for name, value in (("alignment", alignment), ("cleanliness", cleanliness)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
        return cls(alignment, cleanliness, alignment * (0.4 + 0.6 * cleanliness))


def fit(distance: float) -> float:
    """Factor in (0.25, 1] for a distance >= 0 in units of half the way to the nearest other name.

    1 at 0, 0.5 at 1 (as near to another name), 0.28 at 2 (is the other name); smooth and strictly falling.
    """
    if distance <= 1:
        return 1 - 0.5 * distance
    return 0.25 + 0.25 * exp(-2 * (distance - 1))


@cache
def _half_way_color(color: str) -> float:
    own = oklab(PALETTE[color])
    return min(dist(own, oklab(rgb)) for name, rgb in PALETTE.items() if name != color) / 2


@cache
def _half_way_shape(shape: str) -> float:
    own = shape_outline(shape)
    return min(outline_distance(own, shape_outline(name)) for name in SHAPES if name != shape) / 2


def color_fit(rgb: RGB, color: str) -> float:
    """How well a shown color, in [0, 255], passes for a named one: distance in OKLab."""
    return fit(dist(oklab(rgb), oklab(PALETTE[color])) / _half_way_color(color))


def shape_fit(outline: np.ndarray, shape: str) -> float:
    """How well an upright outline (120,) of unit-circle area passes for a named shape."""
    return fit(outline_distance(outline, shape_outline(shape)) / _half_way_shape(shape))


def size_fit(radius: float, size: str | None) -> float:
    """How well a radius passes for a named size: ratio of radii. Any radius is right for size None.

    Within the jitter of a rightly sized thing it is 1, as it is beyond it on the side away from the other.
    """
    if size is None:
        return 1.0
    other = RADII["big" if size == "small" else "small"]
    tolerance = abs(log(1 + (RADIUS_JITTER if other > RADII[size] else -RADIUS_JITTER)))
    toward = log(radius / RADII[size]) * (1 if other > RADII[size] else -1)
    half_way = abs(log(other / RADII[size])) / 2
    # A billionth is rounding, not size.
    return fit(max(0.0, toward - tolerance - 1e-9) / (half_way - tolerance))


def relation_fit(dx: float, dy: float, relation: str) -> float:
    """How well the step (dx, dy) from the second thing's center to the first's shows a relation.

    Measured by the angle off the named direction: 1 up to 20 degrees, 0.5 at 45, below 0.26 from 90.
    """
    length = hypot(dx, dy)
    if length == 0:
        return fit(2.0)
    ux, uy = DIRECTIONS[relation]
    angle = degrees(acos(min(1.0, max(-1.0, (dx * ux + dy * uy) / length))))
    return fit(max(0.0, angle - RELATION_TOLERANCE - 1e-9) / (45 - RELATION_TOLERANCE))


def _thing_fit(shown: Shown, thing: Thing) -> float:
    return (
        color_fit(shown.color, thing.color)
        * shape_fit(shown.outline, thing.shape)
        * size_fit(shown.radius, thing.size)
    )


def _extra_fit(radius: float) -> float:
    speck, whole = EXTRA_RADII
    return fit(2 * max(0.0, radius - speck) / (whole - speck))


def alignment(scene: Scene, shown: Sequence[Shown]) -> float:
    """How well the shown things fit a scene, in [0, 1]: a product over the best assignment.

    Named things are assigned to shown things in every way, as many as there are; each assignment is worth
    the product of its color, shape, size and relation factors, of 0.2 if one of two things is missing, and
    of a factor for each shown thing left over; the best assignment counts. Nothing shown gives 0.
    """
    if not shown:
        return 0.0
    count = min(len(scene.things), len(shown))
    fits = [[_thing_fit(one, thing) for one in shown] for thing in scene.things]
    extras = [_extra_fit(one.radius) for one in shown] if len(shown) > count else []
    best = 0.0
    for named in combinations(range(len(scene.things)), count):
        for chosen in permutations(range(len(shown)), count):
            worth = MISSING_FACTOR if count < len(scene.things) else 1.0
            for thing, one in zip(named, chosen, strict=True):
                worth *= fits[thing][one]
            if count == 2:
                index_of = dict(zip(named, chosen, strict=True))
                first, second = shown[index_of[0]], shown[index_of[1]]
                worth *= relation_fit(first.x - second.x, first.y - second.y, scene.pair_relation)
            for one, extra in enumerate(extras):
                worth *= 1.0 if one in chosen else extra
            best = max(best, worth)
    return best


def cleanliness(strengths: Iterable[float]) -> float:
    """Product of 1 - 0.75 * strength over the cleanliness faults, in (0, 1]; 1 for none.

    `degrade.MAGNITUDES` ties each strength to something that can be measured in the image.
    """
    result = 1.0
    for strength in strengths:
        result *= 1 - CLEANLINESS_LOSS * strength
    return result
