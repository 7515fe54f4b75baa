"""Faults of images, their strengths, and the resulting truth.

Semantic faults change the content of an image and lower its alignment; cleanliness faults degrade the image
and lower its cleanliness. `make_image` renders a scene with faults and returns the pixels with their truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import appearance, layout
from .degrade import PIXEL_FAULTS, degrade, magnitude
from .grammar import COLORS, OPPOSITES, RELATIONS, SHAPES, Scene, Thing, check_name
from .render import Drawing, Mark, check_side, rasterize
from .truth import EXTRA_RADII, RELATION_TOLERANCE, Truth, alignment, cleanliness

SEMANTIC = ("wrong_colour", "wrong_shape", "wrong_size", "missing", "extra", "wrong_relation")
CLEANLINESS = (*PIXEL_FAULTS, "cut_off")
_OF_ONE_THING = ("wrong_colour", "wrong_shape", "wrong_size", "missing", "cut_off")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of `SEMANTIC` or `CLEANLINESS`.
        strength: in (0, 1]. For wrong_colour, wrong_shape, wrong_size and wrong_relation it is the fraction
            of the way from the named value to `value` (hue, outline, radius, direction); for extra, the
            radius between a speck and a thing; for cleanliness faults see `degrade.MAGNITUDES`. "missing"
            always has strength 1.
        target: index into `scene.things`, for faults of one thing.
        value: what is shown instead: a color, a shape, a relation (of the first thing to the second), or
            for extra "red circle". None draws it at random; for a relation it is the opposite. Other kinds
            have no value.

    Raises:
        ValueError: the kind or value is unknown, strength is outside (0, 1], or the target is invalid.
    """

    kind: str
    strength: float = 1.0
    target: int = 0
    value: str | None = None

    def __post_init__(self) -> None:
        check_name("fault", self.kind, SEMANTIC + CLEANLINESS)
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength of {self.kind} must be in (0, 1], got {self.strength!r}")
        if self.kind == "missing" and self.strength != 1:
            raise ValueError(f"strength of missing must be 1, got {self.strength!r}")
        if self.target not in (0, 1):
            raise ValueError(f"target of {self.kind} must be 0 or 1, got {self.target!r}")
        if self.value is None:
            return
        if self.kind == "extra":
            color, _, shape = self.value.partition(" ")
            Thing(color, shape)
            return
        known = {"wrong_colour": COLORS, "wrong_shape": SHAPES, "wrong_relation": RELATIONS}.get(self.kind)
        if known is None:
            raise ValueError(f"{self.kind} takes no value, got {self.value!r}")
        check_name(self.kind.removeprefix("wrong_"), self.value, known)

    @property
    def slot(self) -> tuple[str, int]:
        """The kind, and for faults of one thing its target; at most one fault may have the same slot."""
        return self.kind, self.target if self.kind in _OF_ONE_THING else 0


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """Read-only pixels (H, W, 3), uint8, and their truth."""

    pixels: np.ndarray
    truth: Truth


def check_faults(scene: Scene, faults: Sequence[Fault]) -> None:
    """Raise ValueError if an image of the scene cannot have all of these faults."""
    slots = [fault.slot for fault in faults]
    missing = {fault.target for fault in faults if fault.kind == "missing"}
    for fault in faults:
        if slots.count(fault.slot) > 1:
            raise ValueError(f"{fault.kind} given twice for the same thing, expected once")
        if fault.kind in _OF_ONE_THING:
            if fault.target >= len(scene.things):
                raise ValueError(f"{fault.kind} has target {fault.target}, but the scene has one thing")
            if fault.kind != "missing" and fault.target in missing:
                raise ValueError(f"{fault.kind} has target {fault.target}, which the fault missing removes")
        if fault.kind == "wrong_relation" and (scene.relation is None or missing):
            raise ValueError(
                f"wrong_relation needs two things in the image, got {len(scene.things) - len(missing)}"
            )
        thing = scene.things[fault.slot[1]]
        if fault.kind == "wrong_size" and thing.size is None:
            raise ValueError(f"wrong_size needs a named size, but {thing.words()!r} has none")
        named = {
            "wrong_colour": thing.color,
            "wrong_shape": thing.shape,
            "wrong_relation": scene.relation,
        }.get(fault.kind)
        if fault.value is not None and fault.value == named:
            raise ValueError(f"{fault.kind} needs another value than the scene's, got {fault.value!r}")


def draw_scene(scene: Scene, rng: np.random.Generator, faults: Sequence[Fault] = ()) -> Drawing:
    """Return a drawing of the scene with the semantic faults and cut-offs; other faults are ignored.

    The marks are the scene's things in order (without missing ones), then the extra thing. Raise ValueError
    like `check_faults`.
    """
    check_faults(scene, faults)
    at = {fault.slot: fault for fault in faults}
    background = layout.sample_background(rng)
    while True:
        marks = {
            index: _mark(thing, index, at, rng)
            for index, thing in enumerate(scene.things)
            if ("missing", index) not in at
        }
        if len(marks) == 2:
            angle = _angle(scene, at.get(("wrong_relation", 0)), rng)
            marks = dict(enumerate(layout.place_two(marks[0], marks[1], angle, rng)))
        else:
            marks = {index: layout.place_one(mark, rng) for index, mark in marks.items()}
        for index in sorted(marks):
            cut = at.get(("cut_off", index))
            if cut:
                share = magnitude("cut_off", cut.strength)
                marks[index] = layout.cut_off(marks[index], marks.get(1 - index), share, rng)
        drawn = list(marks.values())
        extra = at.get(("extra", 0))
        if extra is None:
            return Drawing(background, tuple(drawn))
        placed = layout.place_extra(_extra_mark(extra, rng), drawn, rng)
        if placed:
            return Drawing(background, (*drawn, placed))
        # Two big things may leave no space for the extra one: repeat with another layout.


def make_image(
    scene: Scene, rng: np.random.Generator, faults: Sequence[Fault] = (), size: int = 64
) -> RenderedImage:
    """Return an image of the scene with faults, and its truth.

    Args:
        scene: the scene.
        rng: the source of randomness; the same state gives the same bytes.
        faults: the faults.
        size: side in pixels, at least 16.

    Raises:
        ValueError: the size is invalid, or see `check_faults`.
    """
    check_side(size)
    drawing = draw_scene(scene, rng, faults)
    pixels = paint(drawing, faults, rng, size)
    pixels.setflags(write=False)
    unclean = (fault.strength for fault in faults if fault.kind in CLEANLINESS)
    return RenderedImage(pixels, Truth.of(alignment(scene, drawing.marks), cleanliness(unclean)))


def paint(drawing: Drawing, faults: Sequence[Fault], rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Render a drawing with pixel faults to (size, size, 3), uint8; other faults are ignored.

    Raise ValueError if the size is invalid.
    """
    return degrade(rasterize(drawing, size), {fault.kind: fault.strength for fault in faults}, rng)


def render_scene(scene: Scene, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Return an image of the scene without faults, (size, size, 3), uint8; raise like `make_image`."""
    return rasterize(draw_scene(scene, rng), size)


def _other(names: tuple[str, ...], name: str, rng: np.random.Generator) -> str:
    return names[(names.index(name) + int(rng.integers(1, len(names)))) % len(names)]


def _mark(thing: Thing, index: int, at: dict[tuple[str, int], Fault], rng: np.random.Generator) -> Mark:
    draws = rng.random(3).tolist()
    size = thing.size or ("small", "big")[draws[0] < 0.5]
    turn = appearance.TURNS[thing.shape]
    color = appearance.palette_rgb(thing.color)
    outline = appearance.shape_outline(thing.shape)
    radius = appearance.RADII[size] * (1 + appearance.RADIUS_JITTER * (2 * draws[1] - 1))
    if fault := at.get(("wrong_colour", index)):
        value = fault.value or _other(COLORS, thing.color, rng)
        color = appearance.blend_color(thing.color, value, fault.strength)
    if fault := at.get(("wrong_shape", index)):
        value = fault.value or _other(SHAPES, thing.shape, rng)
        outline = appearance.blend_outline(thing.shape, value, fault.strength)
        turn = min(turn, appearance.TURNS[value])
    if fault := at.get(("wrong_size", index)):
        radius = appearance.blend_radius(size, "small" if size == "big" else "big", fault.strength)
    return Mark(color, outline, radius, float(np.deg2rad(turn * (2 * draws[2] - 1))), 0.5, 0.5)


def _extra_mark(fault: Fault, rng: np.random.Generator) -> Mark:
    words = fault.value.split() if fault.value else None
    drawn = (COLORS[int(rng.integers(len(COLORS)))], SHAPES[int(rng.integers(len(SHAPES)))])
    color, shape = words or drawn
    speck, whole = EXTRA_RADII
    radius = speck + (whole - speck) * fault.strength
    rgb = appearance.palette_rgb(color)
    return Mark(rgb, appearance.shape_outline(shape), radius, 0.0, 0.5, 0.5)


def _angle(scene: Scene, fault: Fault | None, rng: np.random.Generator) -> float:
    """Return the direction in degrees from the second thing to the first."""
    named = layout.axis_angle(scene.pair_relation)
    jitter, sense = rng.random(2).tolist()
    if fault is None:
        return named + layout.AXIS_JITTER * (2 * jitter - 1)
    turn = (layout.axis_angle(fault.value or OPPOSITES[scene.pair_relation]) - named) % 360
    if turn == 180:
        turn = 180 if sense < 0.5 else -180
    elif turn == 270:
        turn = -90
    # Starts at the tolerance of the relation, so that every strength has an effect.
    sign = 1 if turn > 0 else -1
    return named + sign * (RELATION_TOLERANCE + (abs(turn) - RELATION_TOLERANCE) * fault.strength)
