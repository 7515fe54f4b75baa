"""What training may see: the fixed split of the scenes, and the sampler that keeps to it.

`split.json` lists color-shape combinations and (shape, relation, shape) triples that training never sees.
It carries a version: results are comparable only within one version, so a change needs a new number.
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
    """The held-out combinations. Relations are in the turned form of `Scene` ("left of", "above")."""

    version: int
    held_out_combinations: frozenset[tuple[str, str]]
    held_out_relations: frozenset[tuple[str, str, str]]


@cache
def load_split() -> Split:
    """The split that ships with the package."""
    data = json.loads(files(__package__).joinpath("split.json").read_text(encoding="utf-8"))
    return Split(
        version=data["version"],
        held_out_combinations=frozenset(map(tuple, data["held_out_combinations"])),
        held_out_relations=frozenset(map(tuple, data["held_out_relations"])),
    )


def combination_held_out(color: str, shape: str) -> bool:
    """Whether training never sees this color on this shape."""
    return (color, shape) in load_split().held_out_combinations


def relation_held_out(first: str, relation: str, second: str) -> bool:
    """Whether training never sees the first shape in this relation to the second, put either way round."""
    if relation in ("right of", "below"):
        first, relation, second = second, OPPOSITES[relation], first
    return (first, relation, second) in load_split().held_out_relations


def split_of(scene: Scene) -> str:
    """ "held_out" if the scene holds at least one held-out combination or relation, otherwise "train"."""
    shapes = [thing.shape for thing in scene.things]
    if any(combination_held_out(thing.color, thing.shape) for thing in scene.things):
        return "held_out"
    if len(shapes) == 2 and relation_held_out(shapes[0], scene.pair_relation, shapes[1]):
        return "held_out"
    return "train"


def sample_scene(rng: np.random.Generator, split: str = "train", pair_share: float = 0.8) -> Scene:
    """A random scene of one split.

    rng: the only source of chance.
    split: "train" (no held-out combination) or "held_out" (at least one).
    pair_share: probability in [0, 1] of drawing two things rather than one. For "held_out" it is the share
        before selection, so pairs come out somewhat more often than it says.
    Raises ValueError for an unknown split or a share outside [0, 1].
    """
    check_name("split", split, SPLITS)
    if not 0 <= pair_share <= 1:
        raise ValueError(f"pair_share must lie in [0, 1], got {pair_share!r}")
    while True:
        things = [_sample_thing(rng)]
        relation = None
        if rng.random() < pair_share:
            things.append(_sample_thing(rng))
            relation = ("left of", "above")[int(rng.integers(2))]
        try:
            scene = Scene(tuple(things), relation)
        except ValueError:  # the two things came out alike: draw again
            continue
        if split_of(scene) == split:
            return scene


def _sample_thing(rng: np.random.Generator) -> Thing:
    color, shape, size = rng.integers((len(COLORS), len(SHAPES), len(SIZES) + 1))
    return Thing(COLORS[color], SHAPES[shape], (*SIZES, None)[size])
