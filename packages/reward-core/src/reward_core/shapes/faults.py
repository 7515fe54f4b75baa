"""What can go wrong with an image, how badly, and the truth that follows.

Semantic faults change what is drawn and lower alignment; cleanliness faults change how cleanly it is drawn
and lower cleanliness. `make_image` draws a scene with its faults and returns the pixels with their truth.
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

    kind: one of `SEMANTIC` or `CLEANLINESS`.
    strength: in (0, 1]. For wrong_colour, wrong_shape, wrong_size and wrong_relation it is how far what is
        named has turned into `value` (hue, outline, radius, direction); for extra, the radius from speck to
        thing; for the cleanliness faults see `degrade.MAGNITUDES`. "missing" has strength 1 only.
    target: index into `scene.things`, for the faults of one thing.
    value: what is shown instead: a color, a shape, a relation (of the first thing to the second), or for
        extra "red circle". None draws one at random, for a relation the opposite. Not used by other kinds.
    Raises ValueError, naming it, for an unknown kind or value, a strength outside (0, 1] or a bad target.
    """

    kind: str
    strength: float = 1.0
    target: int = 0
    value: str | None = None

    def __post_init__(self) -> None:
        check_name("fault", self.kind, SEMANTIC + CLEANLINESS)
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength of {self.kind} must lie in (0, 1], got {self.strength!r}")
        if self.kind == "missing" and self.strength != 1:
            raise ValueError(f"missing has strength 1 only, got {self.strength!r}")
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
        """What may be at fault only once: a kind, and for the faults of one thing its target."""
        return self.kind, self.target if self.kind in _OF_ONE_THING else 0


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """pixels (H, W, 3), uint8, read-only, and their truth."""

    pixels: np.ndarray
    truth: Truth


def check_faults(scene: Scene, faults: Sequence[Fault]) -> None:
    """Raise ValueError, saying which and why, if the faults cannot all happen to one image of the scene."""
    slots = [fault.slot for fault in faults]
    missing = {fault.target for fault in faults if fault.kind == "missing"}
    for fault in faults:
        if slots.count(fault.slot) > 1:
            raise ValueError(f"{fault.kind} given twice for the same thing")
        if fault.kind in _OF_ONE_THING:
            if fault.target >= len(scene.things):
                raise ValueError(f"{fault.kind} has target {fault.target}, but the scene has one thing")
            if fault.kind != "missing" and fault.target in missing:
                raise ValueError(f"{fault.kind} has target {fault.target}, which is missing")
        if fault.kind == "wrong_relation" and (scene.relation is None or missing):
            raise ValueError("wrong_relation needs two things in the image")
        thing = scene.things[fault.slot[1]]
        if fault.kind == "wrong_size" and thing.size is None:
            raise ValueError(f"wrong_size: the size of {thing.words()!r} is not named, so any is right")
        named = {
            "wrong_colour": thing.color,
            "wrong_shape": thing.shape,
            "wrong_relation": scene.relation,
        }.get(fault.kind)
        if fault.value is not None and fault.value == named:
            raise ValueError(f"{fault.kind}: {fault.value!r} is what the scene names")


def draw_scene(scene: Scene, rng: np.random.Generator, faults: Sequence[Fault] = ()) -> Drawing:
    """A drawing of the scene with its semantic faults and cut-offs; other faults are passed over.

    The marks are the scene's things in order (less those missing), then the extra. Raises ValueError as
    `check_faults`.
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
        # Two big things can leave no room where they stand: lay them out again.


def make_image(
    scene: Scene, rng: np.random.Generator, faults: Sequence[Fault] = (), size: int = 64
) -> RenderedImage:
    """An image of the scene with its faults, and the truth about it.

    rng: the only source of chance; the same state gives the same bytes.
    size: side in pixels, 16 or more.
    Raises ValueError for a bad size and as `check_faults`.
    """
    check_side(size)
    drawing = draw_scene(scene, rng, faults)
    pixels = paint(drawing, faults, rng, size)
    pixels.setflags(write=False)
    unclean = (fault.strength for fault in faults if fault.kind in CLEANLINESS)
    return RenderedImage(pixels, Truth.of(alignment(scene, drawing.marks), cleanliness(unclean)))


def paint(drawing: Drawing, faults: Sequence[Fault], rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Pixels (size, size, 3), uint8, of a drawing with the pixel faults among `faults`; others are passed
    over. Raises ValueError for a bad size."""
    return degrade(rasterize(drawing, size), {fault.kind: fault.strength for fault in faults}, rng)


def render_scene(scene: Scene, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A clean, right image of the scene: pixels (size, size, 3), uint8. Errors as `make_image`."""
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
    """Direction in degrees from the second thing to the first."""
    named = layout.axis_angle(scene.pair_relation)
    jitter, sense = rng.random(2).tolist()
    if fault is None:
        return named + layout.AXIS_JITTER * (2 * jitter - 1)
    turn = (layout.axis_angle(fault.value or OPPOSITES[scene.pair_relation]) - named) % 360
    if turn == 180:
        turn = 180 if sense < 0.5 else -180
    elif turn == 270:
        turn = -90
    # Starts where the relation begins to be in doubt, so every strength counts.
    sign = 1 if turn > 0 else -1
    return named + sign * (RELATION_TOLERANCE + (abs(turn) - RELATION_TOLERANCE) * fault.strength)
