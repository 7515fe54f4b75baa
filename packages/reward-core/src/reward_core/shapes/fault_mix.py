"""The distribution of faults in the images of a group, and sampling from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from .appearance import blend_color, blend_outline, nearest_color, nearest_shape
from .degrade import PIXEL_FAULTS
from .faults import CLEANLINESS, SEMANTIC, Fault, check_faults
from .grammar import COLORS, OPPOSITES, RELATIONS, SHAPES, Scene, check_name
from .render import check_side
from .split import SPLITS, combination_held_out, relation_held_out

Weights = tuple[tuple[str, float], ...]

MAX_TRIES = 200  # failed draws after which a config is considered impossible


@dataclass(frozen=True)
class GroupConfig:
    """The settings of groups. The defaults are for training; `HELD_OUT` is for evaluation.

    Raise ValueError if a value is out of range.
    """

    seed: int = 20231  # seed of `make_groups`
    size: int = 64  # side of the images in pixels
    images: tuple[int, int] = (4, 9)  # minimum and maximum number of images in a group
    pair_share: float = 0.8  # probability of a scene with two things
    good: float = 0.9  # probability that a group has an image without faults for certain
    hard_negative: float = 0.15  # probability that an image is one of `hard_negatives`
    fault_counts: tuple[float, ...] = (0.15, 0.45, 0.3, 0.1)  # weights of 0, 1, 2, 3... faults per image
    semantic_share: float = 0.55  # probability that a fault is semantic
    full_strength: float = 0.6  # probability that a semantic fault has strength 1
    strength: tuple[float, float] = (0.3, 1.0)  # range of the other strengths
    tie_width: float = 0.03  # maximum difference in utility of images with the same rank
    semantic: Weights = (
        ("wrong_colour", 3.0),
        ("wrong_shape", 3.0),
        ("wrong_size", 2.0),
        ("missing", 1.5),
        ("extra", 1.5),
        ("wrong_relation", 3.0),
    )
    cleanliness: Weights = tuple((kind, 1.0) for kind in (*PIXEL_FAULTS, "cut_off"))

    def __post_init__(self) -> None:
        check_side(self.size)
        fewest, most = self.images
        if not 2 <= fewest <= most:
            raise ValueError(f"images must be (fewest, most) with 2 <= fewest <= most, got {self.images}")
        for name in ("pair_share", "good", "hard_negative", "semantic_share", "full_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        low, high = self.strength
        if not 0 < low <= high <= 1:
            raise ValueError(f"strength must be (low, high) with 0 < low <= high <= 1, got {self.strength}")
        if self.tie_width < 0:
            raise ValueError(f"tie_width must be at least 0, got {self.tie_width!r}")
        for name, known in (("semantic", SEMANTIC), ("cleanliness", CLEANLINESS)):
            weights = getattr(self, name)
            for kind, _ in weights:
                check_name(f"{name} fault", kind, known)
            _check_weights(name, [weight for _, weight in weights])
        _check_weights("fault_counts", self.fault_counts)
        if not sum(self.fault_counts[1:]):
            raise ValueError(
                "fault_counts must allow at least one fault, or every image would tie, "
                f"got {tuple(self.fault_counts)}"
            )

    @cached_property
    def _tables(self) -> dict[str, tuple[tuple, np.ndarray]]:
        tables = {}
        for name in ("semantic", "cleanliness"):
            kinds, weights = zip(*getattr(self, name), strict=True)
            tables[name] = (kinds, np.cumsum(weights) / sum(weights))
        counts = np.asarray(self.fault_counts, float)
        tables["fault_counts"] = (tuple(range(len(counts))), np.cumsum(counts) / counts.sum())
        return tables

    def draw(self, name: str, rng: np.random.Generator) -> Any:
        """Draw an entry of "semantic", "cleanliness" or "fault_counts" according to the weights."""
        entries, cumulative = self._tables[name]
        return entries[min(int(np.searchsorted(cumulative, rng.random(), "right")), len(entries) - 1)]


def _check_weights(name: str, weights: Sequence[float]) -> None:
    if not weights or min(weights) < 0 or not sum(weights):
        raise ValueError(f"{name} needs weights >= 0 that do not sum to 0, got {tuple(weights)}")


#: The settings for training.
TRAIN = GroupConfig()

#: The settings for evaluation: another seed, more faults per image, fewer of them at full strength, and more
#: faults in relations and extra things.
HELD_OUT = GroupConfig(
    seed=90817,
    good=0.8,
    hard_negative=0.2,
    fault_counts=(0.1, 0.35, 0.35, 0.2),
    semantic_share=0.5,
    full_strength=0.5,
    tie_width=0.05,
    semantic=(
        ("wrong_colour", 2.0),
        ("wrong_shape", 2.0),
        ("wrong_size", 2.0),
        ("missing", 2.0),
        ("extra", 2.0),
        ("wrong_relation", 4.0),
    ),
    cleanliness=(
        ("colour_cast", 2.0),
        ("low_contrast", 1.0),
        ("blur", 2.0),
        ("noise", 1.0),
        ("jpeg", 1.0),
        ("cut_off", 2.0),
    ),
)


def hard_negatives(scene: Scene) -> list[tuple[Fault, ...]]:
    """Return faults that keep everything the prompt names but combine it wrongly.

    With two things these are the opposite relation, and swapped colors, shapes or sizes. With one thing it
    is a second, identical thing.
    """
    if len(scene.things) == 1:
        thing = scene.things[0]
        return [(Fault("extra", value=f"{thing.color} {thing.shape}"),)]
    first, second = scene.things
    negatives: list[tuple[Fault, ...]] = [(Fault("wrong_relation", value=OPPOSITES[scene.pair_relation]),)]
    for kind, one, other in (
        ("wrong_colour", first.color, second.color),
        ("wrong_shape", first.shape, second.shape),
    ):
        if one != other:
            negatives.append((Fault(kind, value=other), Fault(kind, target=1, value=one)))
    if None not in (first.size, second.size) and first.size != second.size:
        negatives.append((Fault("wrong_size"), Fault("wrong_size", target=1)))
    return negatives


def sample_faults(
    scene: Scene, rng: np.random.Generator, config: GroupConfig = TRAIN, split: str = "train"
) -> tuple[Fault, ...]:
    """Return the random faults of one image, possibly none.

    In "train" no fault shows a held-out combination. Raise ValueError if the split is unknown or the
    faults of the config are impossible for the scene.
    """
    check_name("split", split, SPLITS)
    for _ in range(MAX_TRIES):
        count = config.draw("fault_counts", rng)
        faults: tuple[Fault, ...] = ()
        if rng.random() < config.hard_negative:
            negatives = hard_negatives(scene)
            faults = negatives[int(rng.integers(len(negatives)))]
            count -= 1
        while len(faults) < count:
            faults = (*faults, _sample_fault(scene, rng, config))
        try:
            check_faults(scene, faults)
        except ValueError:  # the faults exclude each other: draw again
            continue
        if split == "held_out" or not shows_held_out(scene, faults):
            return faults
    raise ValueError(
        f"Cannot draw faults: fault_counts {config.fault_counts} and the weights allow no image of {scene}."
    )


def _sample_fault(scene: Scene, rng: np.random.Generator, config: GroupConfig) -> Fault:
    """Return one random fault that is possible for the scene, with a fixed value."""
    for _ in range(MAX_TRIES):
        semantic, full, depth = rng.random(3).tolist()
        kind = config.draw("semantic" if semantic < config.semantic_share else "cleanliness", rng)
        low, high = config.strength
        strength = low + (high - low) * depth
        if kind == "missing" or (kind in SEMANTIC and full < config.full_strength):
            strength = 1.0
        target = int(rng.integers(len(scene.things)))
        fault = Fault(kind, strength, target, _sample_value(kind, rng))
        try:
            check_faults(scene, (fault,))
        except ValueError:  # for example a wrong size if no size is named
            continue
        return fault
    raise ValueError(f"Cannot draw a fault: none of the config's faults is possible for {scene}.")


def _sample_value(kind: str, rng: np.random.Generator) -> str | None:
    color = COLORS[int(rng.integers(len(COLORS)))]
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
    values = {
        "wrong_colour": color,
        "wrong_shape": shape,
        "wrong_relation": relation,
        "extra": f"{color} {shape}",
    }
    return values.get(kind)


def shows_held_out(scene: Scene, faults: Sequence[Fault]) -> bool:
    """Return whether an image with these faults shows a held-out combination or relation, or nearly does.

    A partial fault counts as its value and as the name nearest to the blend: a red thing half-way to blue is
    purple. Faults without a value are ignored, so choose their values first.
    """
    at = {fault.slot: fault for fault in faults}
    shapes: list[set[str]] = []
    for index, thing in enumerate(scene.things):
        if ("missing", index) in at:
            continue
        colors = _names(thing.color, at.get(("wrong_colour", index)), blend_color, nearest_color)
        shapes.append(_names(thing.shape, at.get(("wrong_shape", index)), blend_outline, nearest_shape))
        if any(combination_held_out(color, shape) for color in colors for shape in shapes[-1]):
            return True
    extra = at.get(("extra", 0))
    if extra and extra.value and combination_held_out(*extra.value.split()):
        return True
    if len(shapes) < 2:
        return False
    relations = _relations(scene, at.get(("wrong_relation", 0)))
    return any(relation_held_out(*shown) for shown in product(shapes[0], relations, shapes[1]))


def _names(name: str, fault: Fault | None, blend: Callable, nearest: Callable) -> set[str]:
    """Return the names that a color or shape with this fault may be taken for."""
    if fault is None or fault.value is None:
        return {name}
    if fault.strength == 1:
        return {fault.value}
    return {fault.value, nearest(blend(name, fault.value, fault.strength))}


def _relations(scene: Scene, fault: Fault | None) -> set[str]:
    relation = scene.pair_relation
    if fault is None:
        return {relation}
    value = fault.value or OPPOSITES[relation]
    if value == OPPOSITES[relation] and fault.strength < 1:
        return set(RELATIONS)  # a partial turn passes one of the other two relations
    return {relation, value} if fault.strength < 1 else {value}
