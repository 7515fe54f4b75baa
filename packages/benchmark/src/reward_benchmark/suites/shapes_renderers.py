"""Renderers of ShapesBench with faults, ranked like text-to-image models.

Some of the faults do not occur in the training data of the tiny reward: mosaic, dead pixels, stripes.
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
    """A renderer with faults.

    Attributes:
        title: description for readers.
        faults: (kind, probability, strength) of faults, each applied at most once per image, if the scene
            allows it.
        change: change of the finished pixels, if any.
    """

    title: str
    faults: tuple[tuple[str, float, float], ...] = ()
    change: Change | None = None


def _mosaic(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace blocks of about 3 x 3 pixels by their mean color."""
    side = len(pixels)
    small = Image.fromarray(pixels).resize((side // 3, side // 3), Image.Resampling.BOX)
    return np.array(small.resize((side, side), Image.Resampling.NEAREST))


def _dead_pixels(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn one pixel in 12 black or white."""
    pixels = pixels.copy()
    dead = rng.random(pixels.shape[:2]) < 1 / 12
    pixels[dead] = 255 * rng.integers(0, 2, (int(dead.sum()), 1))
    return pixels


def _stripes(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darken every fourth row a little.

    With darker rows the oracle would recognize no things.
    """
    pixels = pixels.copy()
    first = int(rng.integers(4))
    pixels[first::4] = (pixels[first::4] * 0.88).astype(np.uint8)
    return pixels


RENDERERS: dict[str, Renderer] = {
    "faithful": Renderer("no fault"),
    "hazy": Renderer("a color cast", (("colour_cast", 1.0, 0.3),)),
    "soft": Renderer("blurred", (("blur", 1.0, 0.6),)),
    "mosaic": Renderer("blocks of 3 pixels (unseen in training)", (), _mosaic),
    "dead-pixels": Renderer("black and white pixels (unseen in training)", (), _dead_pixels),
    "careless": Renderer(
        "often a wrong shape, cut off",
        (("wrong_shape", 0.5, 1.0), ("cut_off", 0.5, 0.5), ("noise", 0.3, 0.4)),
    ),
    "colour-blind": Renderer("mostly wrong colors", (("wrong_colour", 0.8, 1.0),)),
    "stripes": Renderer(
        "dark lines (unseen in training), often a wrong relation", (("wrong_relation", 0.5, 1.0),), _stripes
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
    """Draw one image of a scene: (64, 64, 3), uint8."""
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
