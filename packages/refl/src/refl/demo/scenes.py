"""The scenes that the tiny pipeline draws: big, upright, near the center.

The prompts name either no size or "big". Colors, shapes, relations, wordings, backgrounds and held-out
combinations (`reward_core.shapes.split`) are those of ShapesBench. The oracle scores the images without
these limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from reward_core import shapes
from reward_core.shapes import appearance, layout
from reward_core.shapes.grammar import Scene, Thing, phrase
from reward_core.shapes.render import Drawing, Mark, rasterize

# Lengths are fractions of the image side.
SIZE_NAMED = 0.25  # share of things that the prompt calls big
RADIUS, RADIUS_JITTER = 0.158, 0.03  # big things of ShapesBench: 0.155, with a jitter of 5%
SPREAD = 0.1  # largest offset of the scene from the image center along the free axes
ON_AXIS = 0.02  # largest offset along the axis of a relation
HALF_DISTANCE = (0.21, 0.23)  # half the distance between the centers of two things
OFF_AXIS = 0.05  # largest offset across the relation's axis: 13 degrees, where the oracle allows 20


def sample_scene(rng: np.random.Generator, split: str = "train", pair_share: float = 0.5) -> Scene:
    """Sample a scene of one or two things, each big or without a named size.

    Args and errors are those of ``shapes.sample_scene``.
    """
    while True:
        scene = shapes.sample_scene(rng, split, pair_share)
        sizes = ["big" if named else None for named in rng.random(len(scene.things)) < SIZE_NAMED]
        things = tuple(Thing(t.color, t.shape, size) for t, size in zip(scene.things, sizes))
        try:
            return Scene(things, scene.relation)
        except ValueError:  # a small and a big thing of the same kind have become equal
            continue


def sample_prompts(
    count: int,
    seed: int,
    split: str = "train",
    pair_share: float = 0.5,
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """Sample ``count`` distinct prompts, none of them in ``without``.

    Raises:
        ValueError: the split has too few distinct prompts.
    """
    rng = np.random.default_rng([seed, 11])
    prompts: dict[str, None] = {}
    for _ in range(200 * count):
        if len(prompts) == count:
            break
        prompt = phrase(sample_scene(rng, split, pair_share), rng)
        if prompt not in without:
            prompts[prompt] = None
    if len(prompts) < count:
        raise ValueError(
            f"Cannot sample {count} distinct prompts of split {split!r}: found only {len(prompts)}. Ask for "
            "fewer."
        )
    return list(prompts)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a clean, correct image of the scene: pixels (64, 64, 3), uint8."""
    marks = [_make_mark(thing, rng) for thing in scene.things]
    background = layout.sample_background(rng)
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
    return rasterize(Drawing(background, positioned))


def captioned_images(
    count: int, seed: int, split: str = "train", pair_share: float = 0.5
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield ``count`` images with prompts. Image i does not depend on ``count``."""
    for index in range(count):
        rng = np.random.default_rng([seed, index, 12])
        scene = sample_scene(rng, split, pair_share)
        yield draw(scene, rng), phrase(scene, rng)


def _make_mark(thing: Thing, rng: np.random.Generator) -> Mark:
    color = appearance.palette_rgb(thing.color)
    radius = RADIUS * (1 + RADIUS_JITTER * (2 * rng.random() - 1))
    return Mark(color, appearance.shape_outline(thing.shape), radius, 0.0, 0.5, 0.5)
