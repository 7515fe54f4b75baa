"""Read the things in an image and its damage, without a learned model.

1. The background is a plane fitted to what most of the border shows; the residual is noise (`segmentation`).
2. Regions are pixels nearer to one color than to the background. A region's color is that of its middle. The
   cover, the fraction of each pixel that the region fills, is the projection on the line between the colors.
3. The cover's outline is compared with the named outlines and mixtures of two of them, with the same blur,
   rotated, and cut off by the frame (`outline_bank`).
4. Contrast and color cast follow from the colors of the background and the things (`haze`).
5. The result is rendered again. The unexplained fraction of the image lowers the trust in the reading; its
   absolute size is a damage besides blur, noise and traces of JPEG (`jpeg_trace`).

Small deviations from named values are considered errors of the reading and dropped; the limits grow with
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from ..degrade import PIXEL_FAULTS, strength_of
from ..grammar import Scene
from ..render import fill
from ..truth import alignment, cleanliness
from .haze import find_haze, haze_of_ground
from .jpeg_trace import jpeg_coarseness
from .recompression import refit_marks
from .segmentation import SIDE, SOFTENED_NOISE, Ground, find_ground, find_regions, soften
from .thing import SPECK, FoundThing, name_thing, ramp, read_thing

_EDGE_BLUR = 0.3  # sigma in pixels of the anti-aliasing of a sharp edge
_COARSE = 1.8  # JPEG coarseness above which measured outlines are unreliable
# Softness, in radii and in pixels, from which a thing starts to be a cloud, and from which it is only that.
_FADES, _FADES_PIXELS = (0.32, 0.41), (2.5, 4.0)
_CRUMB = 0.02  # radius
_EXPLAINED = (0.5, 0.8)  # explained fraction of the image: no trust, full trust
_ROUGH = (6.0, 22.0)  # unexplained root-mean-square levels: no damage, full damage


@dataclass(frozen=True, eq=False)
class Reading:
    """The content of an image.

    Attributes:
        things: at most 12 things, the largest first.
        damage: strength in [0, 1] of each of `PIXEL_FAULTS` and of "texture", all other damage.
        trust: in [0, 1], how much of the image the things explain.
    """

    things: tuple[FoundThing, ...]
    damage: dict[str, float]
    trust: float

    def alignment(self, scene: Scene) -> float:
        """Return how well the image matches a scene, in [0, 1]."""
        return self.trust * alignment(scene, self.things)

    @property
    def cleanliness(self) -> float:
        """How clean the image is, in (0, 1]."""
        # Ignore tiny things at the frame, such as JPEG artifacts.
        cuts = [strength_of("cut_off", thing.cut) for thing in self.things if thing.radius > _CRUMB]
        return cleanliness([*self.damage.values(), *cuts])


def read_image(image: np.ndarray | Image.Image) -> Reading:
    """Read an image: (H, W, 3) uint8 or PIL, of any size; it is resized to 64 x 64 pixels.

    Raise ValueError if an array has another shape or type.
    """
    pixels = _as_pixels(image)
    exact = pixels.astype(np.float32)
    soft = soften(exact)
    ground = find_ground(exact, soft)
    guess = haze_of_ground(ground.level)
    regions = find_regions(soft, ground, guess.gain)
    passes = 0 if ground.noise < 8 else 1 if ground.noise < 18 else 2
    smooth = (exact, soft, soften(soft) if passes == 2 else soft)[passes]
    noise = SOFTENED_NOISE[passes] * ground.noise
    read = (read_thing(smooth, ground, noise, regions, index) for index in range(len(regions)))
    measured = [thing for thing in read if thing is not None]
    haze = find_haze(ground.level, [thing.shown_color for thing in measured], guess)
    blur = _blur(measured, passes)
    coarseness = jpeg_coarseness(pixels)
    if coarseness > _COARSE:
        measured = _refitted(measured, pixels, ground, coarseness, blur)
    explained, rough = _check(soft, ground, measured, blur)
    damage = {
        "colour_cast": strength_of("colour_cast", haze.share),
        "low_contrast": strength_of("low_contrast", haze.contrast),
        "blur": strength_of("blur", blur),
        "noise": strength_of("noise", ground.noise),
        "jpeg": strength_of("jpeg", coarseness),
    }
    assert tuple(damage) == PIXEL_FAULTS
    damage["texture"] = 0.0 if damage["jpeg"] else ramp(rough / haze.gain, _ROUGH)
    things = [
        name_thing(thing, haze, SOFTENED_NOISE[1] * ground.noise, damage["jpeg"] > 0) for thing in measured
    ]
    trust = ramp(explained, _EXPLAINED) * _firmness(things)
    return Reading(tuple(t for t in things if t.radius > 0), damage, trust)


def _refitted(
    measured: list[FoundThing], pixels: np.ndarray, ground: Ground, coarseness: float, blur: float
) -> list[FoundThing]:
    """Return the things with the outlines that match the image best after the same compression."""
    whole = [thing for thing in measured if thing.radius > SPECK and not thing.cut]
    marks = refit_marks(pixels, ground.plane, [thing.mark for thing in whole], coarseness, blur)
    changed = {
        id(thing): replace(thing, outline=mark.outline, radius=mark.radius, turn=mark.turn)
        for thing, mark in zip(whole, marks, strict=True)
    }
    return [changed.get(id(thing), thing) for thing in measured]


def _firmness(things: Sequence[FoundThing]) -> float:
    """Return the fraction of the things' area that belongs to firm things, not to clouds."""
    firm = whole = 0.0
    for thing in things:
        area = thing.radius**2
        cloud = max(
            ramp(thing.softness / max(thing.radius, 1e-6), _FADES),
            ramp(SIDE * thing.softness, _FADES_PIXELS),
        )
        firm, whole = firm + area * (1 - cloud), whole + area
    return firm / whole if whole else 1.0


def _blur(measured: Sequence[FoundThing], passes: int) -> float:
    """Return the sigma in pixels of the blur at the things' edges, without that of `soften`."""
    if not measured:
        return 0.0
    weight = sum(thing.radius * thing.lightness for thing in measured)
    variance = sum(thing.radius * thing.lightness * (SIDE * thing.blur) ** 2 for thing in measured) / weight
    return max(variance - 0.5 * passes - _EDGE_BLUR**2, 0.0) ** 0.5


def _as_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.dtype} {image.shape}")
    if image.shape[:2] != (SIDE, SIDE):
        small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image = np.asarray(small)
    return image


def _check(
    soft: np.ndarray, ground: Ground, measured: Sequence[FoundThing], blur: float
) -> tuple[float, float]:
    """Return the fraction of the deviation from the background that things explain, and the rest (RMS)."""
    drawn = ground.plane.copy()
    for thing in sorted(measured, key=lambda thing: -thing.radius):
        fill(drawn, thing.mark)
    if blur > 0.25:
        image = Image.fromarray(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))
        drawn = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    variance = (SOFTENED_NOISE[1] * ground.noise) ** 2
    left = max(_mean_square(soft - soften(drawn)) - variance, 0.0)
    whole = max(_mean_square(soft - ground.plane) - variance, 1.0)
    return 1 - left / whole, left**0.5


def _mean_square(values: np.ndarray) -> float:
    return float(np.vdot(values, values)) / values.size
