"""The part of ShapesBench that the tiny pipeline draws: big, upright things near the middle.

Its prompts name no size, or "big"; everything else is ShapesBench's: colors, shapes, relations, wordings,
grounds, and what training never sees (`reward_core.shapes.split`). The truth of its images is the oracle's,
which knows nothing of these limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from reward_core import shapes
from reward_core.shapes import appearance, layout
from reward_core.shapes.grammar import Scene, Thing, phrase
from reward_core.shapes.render import Drawing, Mark, rasterize

SIZE_NAMED = 0.25  # share of things that the prompt calls big
RADIUS, RADIUS_JITTER = 0.158, 0.03  # that of ShapesBench's big things is 0.155, give or take 5%
SPREAD = 0.1  # an image's middle lies this far from the frame's, at most, along the free axes
ON_AXIS = 0.02  # ... and along the axis of a relation
HALF_DISTANCE = (0.21, 0.23)  # between the middles of two things
OFF_AXIS = 0.05  # off the relation's axis; 13 degrees at most, the relation holds up to 20


def sample_scene(rng: np.random.Generator, split: str = "train", pair_share: float = 0.5) -> Scene:
    """A scene of one or two things that are big or of no named size. Errors as `shapes.sample_scene`."""
    while True:
        scene = shapes.sample_scene(rng, split, pair_share)
        sizes = ["big" if named else None for named in rng.random(len(scene.things)) < SIZE_NAMED]
        things = tuple(Thing(t.color, t.shape, size) for t, size in zip(scene.things, sizes))
        try:
            return Scene(things, scene.relation)
        except ValueError:  # a small and a big one of the same kind, alike now
            continue


def sample_prompts(
    count: int,
    seed: int,
    split: str = "train",
    pair_share: float = 0.5,
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """`count` different prompts, none of them in `without`.

    Raises ValueError where there are not so many.
    """
    rng = np.random.default_rng([seed, 11])
    found: dict[str, None] = {}
    for _ in range(200 * count):
        if len(found) == count:
            break
        prompt = phrase(sample_scene(rng, split, pair_share), rng)
        if prompt not in without:
            found[prompt] = None
    if len(found) < count:
        raise ValueError(f"found {len(found)} different prompts of {split}, not {count}")
    return list(found)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A clean, right image of the scene: pixels (64, 64, 3), uint8."""
    marks = [_make_mark(thing, rng) for thing in scene.things]
    ground = layout.sample_background(rng)
    x, y = 0.5 + SPREAD * (2 * rng.random(2) - 1)
    if scene.relation is not None:
        (off_axis,) = OFF_AXIS * (2 * rng.random(1) - 1)
        on_axis = 0.5 + ON_AXIS * (2 * rng.random() - 1)
        half = rng.uniform(*HALF_DISTANCE)
        is_horizontal = scene.relation == "left of"
        x, y = (on_axis, y) if is_horizontal else (x, on_axis)
        dx, dy = (-half, off_axis) if is_horizontal else (off_axis, -half)
        positions = [(x + dx, y + dy), (x - dx, y - dy)]
    else:
        positions = [(x, y)]
    positioned = tuple(replace(mark, x=float(px), y=float(py)) for mark, (px, py) in zip(marks, positions))
    return rasterize(Drawing(ground, positioned))


def captioned_images(
    count: int, seed: int, split: str = "train", pair_share: float = 0.5
) -> Iterator[tuple[np.ndarray, str]]:
    """`count` images with a prompt each; number i is the same whatever the count."""
    for number in range(count):
        rng = np.random.default_rng([seed, number, 12])
        scene = sample_scene(rng, split, pair_share)
        yield draw(scene, rng), phrase(scene, rng)


def _make_mark(thing: Thing, rng: np.random.Generator) -> Mark:
    color = appearance.palette_rgb(thing.color)
    radius = RADIUS * (1 + RADIUS_JITTER * (2 * rng.random() - 1))
    return Mark(color, appearance.shape_outline(thing.shape), radius, 0.0, 0.5, 0.5)
