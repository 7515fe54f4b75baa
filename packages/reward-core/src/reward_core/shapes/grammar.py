"""The prompts of ShapesBench: scenes, their wordings, and the parser.

A scene is one colored shape, or two with a relation. A size may be omitted ("a red circle"); then any size is
correct. There are 28,360 scenes and 113,440 prompts (480 with one thing, 112,960 with two). Every prompt is
lower case, has at most 14 words, and describes exactly one scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "big")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(OPPOSITES)

_PAIR_WORDINGS = ("{a} {near} {b}", "{far} {b} there is {a}")
_SINGLE_WORDINGS = ("{a}", "there is {a}", "a picture of {a}", "a picture with {a}")
_FAR = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}


def check_name(kind: str, name: object, known: tuple[str, ...]) -> None:
    """Raise ValueError with the list of known names unless `name` is one of them."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Thing:
    """One colored shape. `size` is "small", "big", or None if the prompt does not name it.

    Raise ValueError if the color, shape or size is unknown.
    """

    color: str
    shape: str
    size: str | None = None

    def __post_init__(self) -> None:
        check_name("colour", self.color, COLORS)
        check_name("shape", self.shape, SHAPES)
        if self.size is not None:
            check_name("size", self.size, SIZES)

    def words(self) -> str:
        """Return the thing in words with its article: "a small red circle", "an orange star"."""
        name = " ".join(word for word in (self.size, self.color, self.shape) if word)
        return f"an {name}" if name[0] in "aeiou" else f"a {name}"


@dataclass(frozen=True)
class Scene:
    """One thing (relation None), or two things and the relation of the first to the second.

    Scenes have a canonical form: `Scene((a, b), "right of")` becomes `Scene((b, a), "left of")`, and "below"
    becomes "above". So equal scenes compare equal, `relation` is "left of" or "above", and the order of
    `things` may differ from the one given.

    Raise ValueError if the relation is unknown, there are not 1 or 2 things, the relation does not match the
    number of things, or a prompt could not distinguish the things (same color and shape, and not two
    different named sizes).
    """

    things: tuple[Thing, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        things = tuple(self.things)
        if len(things) not in (1, 2):
            raise ValueError(f"a scene has 1 or 2 things, got {len(things)}")
        if len(things) == 1 and self.relation is not None:
            raise ValueError(f"relation {self.relation!r} needs two things, got one")
        relation = self.relation
        if len(things) == 2:
            check_name("relation", relation, RELATIONS)
            _check_distinct(*things)
            if relation in ("right of", "below"):
                things, relation = things[::-1], OPPOSITES[relation]
        object.__setattr__(self, "things", things)
        object.__setattr__(self, "relation", relation)

    @property
    def pair_relation(self) -> str:
        """The relation of two things. Raise ValueError if the scene has only one."""
        if self.relation is None:
            raise ValueError("a relation needs a scene of two things, got one thing")
        return self.relation


def _check_distinct(first: Thing, second: Thing) -> None:
    same_kind = (first.color, first.shape) == (second.color, second.shape)
    if same_kind and (first.size == second.size or None in (first.size, second.size)):
        raise ValueError(f"a scene cannot have both {first.words()!r} and {second.words()!r}")


def all_wordings(scene: Scene) -> tuple[str, ...]:
    """Return the 4 prompts that describe `scene`, distinct and in a fixed order."""
    if len(scene.things) == 1:
        words = scene.things[0].words()
        return tuple(wording.format(a=words) for wording in _SINGLE_WORDINGS)
    first, second = (thing.words() for thing in scene.things)
    relation = scene.pair_relation
    turns = ((first, relation, second), (second, OPPOSITES[relation], first))
    return tuple(
        wording.format(a=a, b=b, near=relation, far=_FAR[relation])
        for a, relation, b in turns
        for wording in _PAIR_WORDINGS
    )


def phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Return a random prompt for `scene`, drawn uniformly from its wordings."""
    wordings = all_wordings(scene)
    return wordings[int(rng.integers(len(wordings)))]


_THING = re.compile(rf"(?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")
_RELATION = re.compile("|".join(RELATIONS))


def parse(prompt: str) -> Scene:
    """Return the scene that `prompt` describes, the exact inverse of `all_wordings`.

    Raise ValueError if it is not exactly one of the prompts of this world.
    """
    things = tuple(Thing(color, shape, size or None) for size, color, shape in _THING.findall(prompt))
    relations = _RELATION.findall(prompt)
    # A prompt that starts with the relation names the second thing first.
    if len(things) == 2 and " there is " in prompt:
        things = things[::-1]
    try:
        scene = Scene(things, relations[0] if relations else None)
    except ValueError as error:
        raise ValueError(f"Cannot parse {prompt!r}: it is not a prompt of this world ({error}).") from error
    # The searches above are lenient; accept only the exact wordings.
    if prompt not in all_wordings(scene):
        raise ValueError(
            f"Cannot parse {prompt!r}: it is not a prompt of this world. "
            f"Did you mean {all_wordings(scene)[0]!r}?"
        )
    return scene


def all_scenes() -> Iterator[Scene]:
    """Yield every scene once, in a fixed order: 120 with one thing, then 28,240 with two."""
    things = [Thing(*words) for words in product(COLORS, SHAPES, (None, *SIZES))]
    for thing in things:
        yield Scene((thing,))
    for first, second, relation in product(things, things, ("left of", "above")):
        try:
            yield Scene((first, second), relation)
        except ValueError:  # the two things are indistinguishable
            continue


def _vocabulary() -> tuple[str, ...]:
    sentences = (*COLORS, *SHAPES, *SIZES, *OPPOSITES, *_FAR.values(), "an", "a")
    frames = (*_PAIR_WORDINGS, *_SINGLE_WORDINGS)
    words = " ".join(sentences) + " " + " ".join(re.sub(r"\{\w+\}", "", frame) for frame in frames)
    return tuple(sorted(set(words.split())))


#: All words of the prompts, sorted.
VOCABULARY = _vocabulary()
