"""The true quality of an image: how well it matches its prompt, and how clean it is.

All attributes use the same rule. The distance between the shown and the named value is measured in units of
half the distance to the nearest other name, and `fit` converts it to a factor: 1 is the named value, 0.5 is
half-way to another name, and a swapped name gives 0.25 to 0.29 for colors, shapes, sizes and relations. The
functions depend only on what an image shows, not on its faults, so they also apply to things read from
pixels.
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

#: Unit vector from the second thing to the first; x points right, y points down.
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
RELATION_TOLERANCE = 20.0  # maximum angle in degrees between the things' direction and a correct relation
MISSING_FACTOR = 0.2  # factor if one of two things is missing; without any thing, alignment is 0
EXTRA_RADII = (0.035, RADII["small"])  # radii of an extra thing: a speck, a full thing
CLEANLINESS_LOSS = 0.75  # loss of a cleanliness fault of strength 1


class Shown(Protocol):
    """One thing in an image, as drawn or as read from pixels."""

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

        The prompt matters most, as it does for people: a correct image has at least 0.4, even if it is not
        clean at all, and a clean image with one wrong attribute has at most 0.29.
        """
        for name, value in (("alignment", alignment), ("cleanliness", cleanliness)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value!r}")
        return cls(alignment, cleanliness, alignment * (0.4 + 0.6 * cleanliness))


def fit(distance: float) -> float:
    """Return the factor in (0.25, 1] for a distance >= 0 in units of half the distance to another name.

    It is 1 at 0, 0.5 at 1 (half-way to another name) and 0.28 at 2 (the other name); smooth and decreasing.
    """
    if distance <= 1:
        return 1 - 0.5 * distance
    return 0.25 + 0.25 * exp(-2 * (distance - 1))


@cache
def _half_way_color(color: str) -> float:
    lab = oklab(PALETTE[color])
    return min(dist(lab, oklab(rgb)) for name, rgb in PALETTE.items() if name != color) / 2


@cache
def _half_way_shape(shape: str) -> float:
    outline = shape_outline(shape)
    return min(outline_distance(outline, shape_outline(name)) for name in SHAPES if name != shape) / 2


def color_fit(rgb: RGB, color: str) -> float:
    """Return how well a color in [0, 255] matches a color name, by distance in OKLab."""
    return fit(dist(oklab(rgb), oklab(PALETTE[color])) / _half_way_color(color))


def shape_fit(outline: np.ndarray, shape: str) -> float:
    """Return how well an upright outline (120,) of unit-circle area matches a shape name."""
    return fit(outline_distance(outline, shape_outline(shape)) / _half_way_shape(shape))


def size_fit(radius: float, size: str | None) -> float:
    """Return how well a radius matches a size name, by ratio of radii; 1 for size None.

    It is 1 within the jitter of the size, and for radii on the side away from the other size.
    """
    if size is None:
        return 1.0
    other = RADII["big" if size == "small" else "small"]
    tolerance = abs(log(1 + (RADIUS_JITTER if other > RADII[size] else -RADIUS_JITTER)))
    toward = log(radius / RADII[size]) * (1 if other > RADII[size] else -1)
    half_way = abs(log(other / RADII[size])) / 2
    # With a tolerance for rounding.
    return fit(max(0.0, toward - tolerance - 1e-9) / (half_way - tolerance))


def relation_fit(dx: float, dy: float, relation: str) -> float:
    """Return how well the vector (dx, dy) from the second thing to the first matches a relation.

    It depends on the angle to the relation's direction: 1 up to 20 degrees, 0.5 at 45, below 0.26 from 90.
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
    """Return how well the shown things match a scene, in [0, 1].

    It is the maximum over all assignments of named to shown things. An assignment's value is the product of
    the color, shape, size and relation factors, of 0.2 if one of two things is missing, and of a factor for
    each unassigned shown thing. If nothing is shown, the result is 0.
    """
    if not shown:
        return 0.0
    count = min(len(scene.things), len(shown))
    fits = [[_thing_fit(item, thing) for item in shown] for thing in scene.things]
    extras = [_extra_fit(item.radius) for item in shown] if len(shown) > count else []
    best = 0.0
    for named in combinations(range(len(scene.things)), count):
        for assigned in permutations(range(len(shown)), count):
            value = MISSING_FACTOR if count < len(scene.things) else 1.0
            for thing, item in zip(named, assigned, strict=True):
                value *= fits[thing][item]
            if count == 2:
                index_of = dict(zip(named, assigned, strict=True))
                first, second = shown[index_of[0]], shown[index_of[1]]
                value *= relation_fit(first.x - second.x, first.y - second.y, scene.pair_relation)
            for item, extra in enumerate(extras):
                value *= 1.0 if item in assigned else extra
            best = max(best, value)
    return best


def cleanliness(strengths: Iterable[float]) -> float:
    """Return the product of 1 - 0.75 * strength over the cleanliness faults, in (0, 1]; 1 without faults.

    `degrade.MAGNITUDES` relates strengths to measurable quantities of an image.
    """
    result = 1.0
    for strength in strengths:
        result *= 1 - CLEANLINESS_LOSS * strength
    return result
