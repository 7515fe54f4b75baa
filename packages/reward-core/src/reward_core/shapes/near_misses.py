"""Scenes that differ from a given scene in one respect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .grammar import COLORS, SHAPES, SIZES, Scene
from .split import split_of

_RELATIONS = ("left of", "above")  # the canonical relations of `Scene`


def near_miss(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return a random scene that differs in one color, shape, size or relation.

    With two things it may also swap the things, their colors or their shapes. A near miss never describes
    an image of ``scene``, and a near miss of a training scene is a training scene.
    """
    may_be_held_out = split_of(scene) == "held_out"
    changes = [_change_color, _change_shape]
    if any(thing.size for thing in scene.things):
        changes.append(_change_size)
    if scene.relation is not None:
        changes += [_turn_round, _turn_round, _change_axis, _exchange]
    while True:
        change = changes[int(rng.integers(len(changes)))]
        try:
            missed = change(scene, rng)
        except ValueError:  # the two things would be indistinguishable
            continue
        if missed != scene and (may_be_held_out or split_of(missed) == "train"):
            return missed


def _replace_one(scene: Scene, rng: np.random.Generator, field: str, names: tuple[str, ...]) -> Scene:
    things = list(scene.things)
    index = int(rng.integers(len(things)))
    things[index] = replace(things[index], **{field: names[int(rng.integers(len(names)))]})
    return Scene(tuple(things), scene.relation)


def _change_color(scene: Scene, rng: np.random.Generator) -> Scene:
    return _replace_one(scene, rng, "color", tuple(COLORS))


def _change_shape(scene: Scene, rng: np.random.Generator) -> Scene:
    return _replace_one(scene, rng, "shape", tuple(SHAPES))


def _change_size(scene: Scene, rng: np.random.Generator) -> Scene:
    """Change the size of a thing whose size is named."""
    things = list(scene.things)
    sized = [i for i, thing in enumerate(things) if thing.size is not None]
    index = sized[int(rng.integers(len(sized)))]
    other = next(size for size in SIZES if size != things[index].size)
    things[index] = replace(things[index], size=other)
    return Scene(tuple(things), scene.relation)


def _turn_round(scene: Scene, rng: np.random.Generator) -> Scene:
    return Scene(scene.things[::-1], scene.relation)


def _change_axis(scene: Scene, rng: np.random.Generator) -> Scene:
    axis = next(relation for relation in _RELATIONS if relation != scene.relation)
    return Scene(scene.things[:: int(rng.choice([1, -1]))], axis)


def _exchange(scene: Scene, rng: np.random.Generator) -> Scene:
    field = ("color", "shape")[int(rng.integers(2))]
    first, second = scene.things
    return Scene(
        (
            replace(first, **{field: getattr(second, field)}),
            replace(second, **{field: getattr(first, field)}),
        ),
        scene.relation,
    )
