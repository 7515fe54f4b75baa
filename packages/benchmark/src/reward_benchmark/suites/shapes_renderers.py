"""Renderers of ShapesBench with graded faults, to be ranked as text-to-image models are.

Some of their faults never occur in the tiny reward's training: mosaic, dead pixels, stripes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from reward_core.shapes import Fault, Scene, make_image

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Renderer:
    """faults: (kind, probability, strength), each tried once an image where the scene allows it.
    change: what happens to the pixels afterwards."""

    title: str
    faults: tuple[tuple[str, float, float], ...] = ()
    change: Change | None = None


def _mosaic(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blocks of about 3 x 3 pixels of one color."""
    side = len(pixels)
    small = Image.fromarray(pixels).resize((side // 3, side // 3), Image.Resampling.BOX)
    return np.array(small.resize((side, side), Image.Resampling.NEAREST))


def _dead_pixels(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pixel in 12 black or white."""
    pixels = pixels.copy()
    dead = rng.random(pixels.shape[:2]) < 1 / 12
    pixels[dead] = 255 * rng.integers(0, 2, (int(dead.sum()), 1))
    return pixels


def _stripes(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every fourth row a little darker, as on an old screen; darker still, and the oracle reads nothing."""
    pixels = pixels.copy()
    first = int(rng.integers(4))
    pixels[first::4] = (pixels[first::4] * 0.88).astype(np.uint8)
    return pixels


RENDERERS: dict[str, Renderer] = {
    "faithful": Renderer("no fault"),
    "hazy": Renderer("a haze of colour", (("colour_cast", 1.0, 0.3),)),
    "soft": Renderer("blurred", (("blur", 1.0, 0.6),)),
    "mosaic": Renderer("blocks of 3 pixels (unseen in training)", (), _mosaic),
    "dead-pixels": Renderer("black and white pixels (unseen in training)", (), _dead_pixels),
    "careless": Renderer(
        "often a wrong shape, cut off",
        (("wrong_shape", 0.5, 1.0), ("cut_off", 0.5, 0.5), ("noise", 0.3, 0.4)),
    ),
    "colour-blind": Renderer("mostly a wrong colour", (("wrong_colour", 0.8, 1.0),)),
    "stripes": Renderer(
        "dark lines, often a wrong place (unseen in training)", (("wrong_relation", 0.5, 1.0),), _stripes
    ),
    "forgetful": Renderer("things missing, others added", (("missing", 0.9, 1.0), ("extra", 0.6, 1.0))),
    "ruined": Renderer(
        "wrong in everything",
        (
            ("wrong_colour", 1.0, 1.0),
            ("wrong_shape", 1.0, 1.0),
            ("extra", 0.7, 1.0),
            ("noise", 1.0, 0.8),
            ("blur", 1.0, 0.8),
        ),
    ),
}


def render(renderer: Renderer, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One image (64, 64, 3), uint8."""
    faults: list[Fault] = []
    for kind, probability, strength in renderer.faults:
        if rng.random() >= probability:
            continue
        has_missing = any(fault.kind == "missing" for fault in faults)
        if kind == "wrong_relation" and (scene.relation is None or has_missing):
            continue
        if kind in ("wrong_colour", "wrong_shape", "cut_off") and has_missing:
            continue
        faults.append(Fault(kind, strength))
    pixels = make_image(scene, rng, faults).pixels
    return pixels if renderer.change is None else renderer.change(pixels, rng)
