"""The fixed split of scenes into training and held-out scenes, and the sampler of scenes.

`split.json` lists color-shape combinations and (shape, relation, shape) triples that are never used in
training. It has a version; results are comparable only within a version, so every change needs a new one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from .grammar import COLORS, OPPOSITES, SHAPES, SIZES, Scene, Thing, check_name

SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Split:
    """The held-out combinations. Relations are in the canonical form of `Scene` ("left of", "above")."""

    version: int
    held_out_combinations: frozenset[tuple[str, str]]
    held_out_relations: frozenset[tuple[str, str, str]]


@cache
def load_split() -> Split:
    """Return the split that ships with the package."""
    data = json.loads(files(__package__).joinpath("split.json").read_text(encoding="utf-8"))
    return Split(
        version=data["version"],
        held_out_combinations=frozenset(map(tuple, data["held_out_combinations"])),
        held_out_relations=frozenset(map(tuple, data["held_out_relations"])),
    )


def combination_held_out(color: str, shape: str) -> bool:
    """Return whether this color and shape are held out."""
    return (color, shape) in load_split().held_out_combinations


def relation_held_out(first: str, relation: str, second: str) -> bool:
    """Return whether this relation of two shapes, or its converse, is held out."""
    if relation in ("right of", "below"):
        first, relation, second = second, OPPOSITES[relation], first
    return (first, relation, second) in load_split().held_out_relations


def split_of(scene: Scene) -> str:
    """Return "held_out" if the scene has a held-out combination or relation, else "train"."""
    shapes = [thing.shape for thing in scene.things]
    if any(combination_held_out(thing.color, thing.shape) for thing in scene.things):
        return "held_out"
    if len(shapes) == 2 and relation_held_out(shapes[0], scene.pair_relation, shapes[1]):
        return "held_out"
    return "train"


def sample_scene(rng: np.random.Generator, split: str = "train", pair_share: float = 0.8) -> Scene:
    """Return a random scene of a split.

    Args:
        rng: the source of randomness.
        split: "train" (no held-out combination) or "held_out" (at least one).
        pair_share: probability in [0, 1] of two things instead of one. For "held_out" it applies before
            selection, so pairs are somewhat more frequent.

    Raises:
        ValueError: the split is unknown, or pair_share is outside [0, 1].
    """
    check_name("split", split, SPLITS)
    if not 0 <= pair_share <= 1:
        raise ValueError(f"pair_share must be in [0, 1], got {pair_share!r}")
    while True:
        things = [_sample_thing(rng)]
        relation = None
        if rng.random() < pair_share:
            things.append(_sample_thing(rng))
            relation = ("left of", "above")[int(rng.integers(2))]
        try:
            scene = Scene(tuple(things), relation)
        except ValueError:  # the two things are indistinguishable: draw again
            continue
        if split_of(scene) == split:
            return scene


def _sample_thing(rng: np.random.Generator) -> Thing:
    color, shape, size = rng.integers((len(COLORS), len(SHAPES), len(SIZES) + 1))
    return Thing(COLORS[color], SHAPES[shape], (*SIZES, None)[size])
