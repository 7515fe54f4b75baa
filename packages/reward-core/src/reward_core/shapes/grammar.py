"""The prompts of ShapesBench: what a scene is, how it is put into words, and how words are read back.

A scene is one colored shape, or two with a relation between them. A size may be left out ("a red circle"):
then any size is right. There are 28,360 scenes and 113,440 prompts (480 about one thing, 112,960 about two).
Every prompt is lower case, has at most 14 words, and belongs to exactly one scene.
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
    """Raise ValueError, listing the known names, unless `name` is one of them."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Thing:
    """One colored shape. `size` is "small", "big", or None where the prompt does not say.

    Raises ValueError for a color, shape or size that is not of this world.
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
        """The thing in words, with its article: "a small red circle", "an orange star"."""
        name = " ".join(word for word in (self.size, self.color, self.shape) if word)
        return f"an {name}" if name[0] in "aeiou" else f"a {name}"


@dataclass(frozen=True)
class Scene:
    """One thing (relation None), or two things and the relation of the first to the second.

    Equal scenes are the same scene: on construction "right of" and "below" are turned round, so
    `Scene((a, b), "right of")` becomes `Scene((b, a), "left of")`, and `relation` only ever reads
    "left of" or "above". A footgun for code that counts on the order it gave: `things` may be reversed.

    Raises ValueError for an unknown relation, a number of things other than 1 or 2, a relation without two
    things, and two things that a prompt could not tell apart (same color and shape, not two named sizes).
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
        """Return the relation of two things. Raises ValueError for a scene of one."""
        if self.relation is None:
            raise ValueError("a scene of one thing has no relation")
        return self.relation


def _check_distinct(first: Thing, second: Thing) -> None:
    same_kind = (first.color, first.shape) == (second.color, second.shape)
    if same_kind and (first.size == second.size or None in (first.size, second.size)):
        raise ValueError(f"cannot tell {first.words()!r} from {second.words()!r} in one scene")


def all_wordings(scene: Scene) -> tuple[str, ...]:
    """Every prompt that describes `scene`: 4 of them, distinct, in a fixed order."""
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
    """One prompt for `scene`, drawn evenly from its wordings."""
    wordings = all_wordings(scene)
    return wordings[int(rng.integers(len(wordings)))]


_THING = re.compile(rf"(?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")
_RELATION = re.compile("|".join(RELATIONS))


def parse(prompt: str) -> Scene:
    """The scene that `prompt` describes: the exact inverse of `all_wordings`.

    Raises ValueError naming the prompt when it is not one of this world's prompts, to the letter.
    """
    things = tuple(Thing(color, shape, size or None) for size, color, shape in _THING.findall(prompt))
    relations = _RELATION.findall(prompt)
    # A prompt that opens with the relation names the reference thing first.
    if len(things) == 2 and " there is " in prompt:
        things = things[::-1]
    try:
        scene = Scene(things, relations[0] if relations else None)
    except ValueError as error:
        raise ValueError(f"not a prompt of this world: {prompt!r} ({error})") from error
    # The two searches above are lenient; only a wording the grammar itself makes is accepted.
    if prompt not in all_wordings(scene):
        raise ValueError(f"not a prompt of this world: {prompt!r}; did you mean {all_wordings(scene)[0]!r}?")
    return scene


def all_scenes() -> Iterator[Scene]:
    """Every scene of the world once, in a fixed order: 120 of one thing, then 28,240 of two."""
    things = [Thing(*words) for words in product(COLORS, SHAPES, (None, *SIZES))]
    for thing in things:
        yield Scene((thing,))
    for first, second, relation in product(things, things, ("left of", "above")):
        try:
            yield Scene((first, second), relation)
        except ValueError:  # two things that no prompt tells apart are no scene
            continue


def _vocabulary() -> tuple[str, ...]:
    sentences = (*COLORS, *SHAPES, *SIZES, *OPPOSITES, *_FAR.values(), "an", "a")
    frames = (*_PAIR_WORDINGS, *_SINGLE_WORDINGS)
    words = " ".join(sentences) + " " + " ".join(re.sub(r"\{\w+\}", "", frame) for frame in frames)
    return tuple(sorted(set(words.split())))


#: Every word that a prompt can hold, sorted.
VOCABULARY = _vocabulary()
