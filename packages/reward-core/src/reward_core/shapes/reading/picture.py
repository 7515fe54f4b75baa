"""Reading a picture without any learned part: the things it shows, and what is wrong with it as a picture.

1. The ground is what most of the border shows; noise is what is left upon it (`segmentation`).
2. Regions are pixels nearer to one colour than to the ground. A region's colour is that of its middle; the
   cover, how much of each pixel it fills, follows by projection on the way from the ground to it.
3. The cover's outline is compared with what each named outline, and each mixture of two, looks like at the
   softness that the cover's edges have, turned, and cut off by the frame (`outline_bank`).
4. Contrast and colour cast are solved for from the colours of ground and things (`haze`).
5. What is found is drawn again. The share of the picture that this does not explain lowers the trust in
   the reading; its size is a damage of its own, next to blur, noise, traces of JPEG (`jpeg_trace`).

Small deviations from a name are taken for errors of the reading and dropped; the limits grow with noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi

import numpy as np
from PIL import Image, ImageFilter

from ..appearance import PALETTE, RGB, outline_distance, shape_outline
from ..degrade import PIXEL_FAULTS, strength_of
from ..grammar import SHAPES, Scene
from ..render import Mark, fill
from ..truth import alignment, cleanliness
from .haze import Haze, find_haze, haze_of_ground, nearest_named
from .jpeg_trace import jpeg_coarseness
from .outline_bank import FRAME_SIDES, soft_outline
from .outline_fit import fit_outline
from .recompression import refit_marks
from .segmentation import (
    ACROSS,
    DOWN,
    SIDE,
    SOFTENED_NOISE,
    Ground,
    Region,
    find_ground,
    find_regions,
    soften,
)

# What is dropped as error of the reading: distance in OKLab; of outlines, and more of it for softness beyond
# that of a sharp edge, and for the cover's noise.
_COLOUR_ERROR, _OUTLINE_ERROR, _OUTLINE_BLUR, _SHARP, _OUTLINE_NOISE = 0.025, 0.018, 0.12, 0.06, 0.5
_RADIUS_BIAS = 0.995  # true over read, on clean pictures
_OWN_BLUR = 0.3  # sigma in pixels of a sharp edge's anti-aliasing
_PALE = (45.0, 90.0)  # contrast, haze removed, at which a thing begins to count, and counts in full
_NOISY = (3.0, 6.0)  # the same for contrast over noise
_SMALL = 0.08  # a radius; larger things are not made smaller for being pale
_SPECK = 0.055  # a radius; in blocks, what is no larger is hardly a thing
_COARSE = 1.8  # JPEG coarseness from which outlines are no longer to be trusted
# Softness, in radii and in pixels, at which a thing turns into a cloud, and is none any more.
_FADES, _FADES_PIXELS = (0.32, 0.41), (2.5, 4.0)
_EXPLAINED = (0.5, 0.8)  # share of the picture that the reading explains: no trust, full trust
_ROUGH = (5.0, 30.0)  # root-mean-square levels not explained: no damage, full damage


@dataclass(frozen=True, eq=False)
class FoundThing:
    """One thing in a picture; a `truth.Shown`. Lengths are shares of the picture's side.

    colour: without haze; shown_colour: with it. softness: sigma of its edges. blur: the same for their
    lightness alone, which most JPEG files keep sharper than their hue. cut: share of its width or height
    outside the frame. contrast: levels between it and the ground. lightness: the same in lightness, plus
    10. grain: noise over contrast.
    """

    colour: RGB
    outline: np.ndarray
    radius: float
    x: float
    y: float
    turn: float
    softness: float
    blur: float
    cut: float
    shown_colour: RGB
    contrast: float
    lightness: float
    grain: float


@dataclass(frozen=True, eq=False)
class Reading:
    """things: at most 12, the largest first. damage: strength in [0, 1] of each of `PIXEL_FAULTS` and of
    "texture", whatever else is in the picture that should not be. trust: in [0, 1], how much of the
    picture the things explain.
    """

    things: tuple[FoundThing, ...]
    damage: dict[str, float]
    trust: float

    def alignment(self, scene: Scene) -> float:
        """How well the picture fits a scene, in [0, 1]."""
        return self.trust * alignment(scene, self.things)

    @property
    def cleanliness(self) -> float:
        """How clean the picture is, in (0, 1]."""
        cuts = [strength_of("cut_off", thing.cut) for thing in self.things if thing.cut]
        return cleanliness([*self.damage.values(), *cuts])


def read_picture(picture: np.ndarray | Image.Image) -> Reading:
    """Read one picture: (H, W, 3) uint8 or PIL, of any size; it is looked at as 64 x 64 pixels.

    Raises ValueError for an array of another shape or type.
    """
    pixels = _as_pixels(picture)
    exact = pixels.astype(np.float32)
    soft = soften(exact)
    ground = find_ground(exact, soft)
    guess = haze_of_ground(ground.level)
    regions = find_regions(soft, ground, guess.gain)
    passes = 0 if ground.noise < 8 else 1 if ground.noise < 18 else 2
    smooth = (exact, soft, soften(soft) if passes == 2 else soft)[passes]
    noise = SOFTENED_NOISE[passes] * ground.noise
    found = [_read_thing(smooth, ground, noise, regions, index) for index in range(len(regions))]
    found = [thing for thing in found if thing is not None]
    haze = find_haze(ground.level, [thing.shown_colour for thing in found], guess)
    blur = _blur(found, passes)
    coarseness = jpeg_coarseness(pixels)
    if coarseness > _COARSE:
        found = _refitted(found, pixels, ground, coarseness, blur)
    explained, rough = _check(soft, ground, found, blur)
    damage = {
        "colour_cast": strength_of("colour_cast", haze.share),
        "low_contrast": strength_of("low_contrast", haze.kept),
        "blur": strength_of("blur", blur),
        "noise": strength_of("noise", ground.noise),
        "jpeg": strength_of("jpeg", coarseness),
    }
    assert tuple(damage) == PIXEL_FAULTS
    damage["texture"] = 0.0 if damage["jpeg"] else _ramp(rough / haze.gain, _ROUGH)
    things = [_named(thing, haze, SOFTENED_NOISE[1] * ground.noise, damage["jpeg"] > 0) for thing in found]
    trust = _ramp(explained, _EXPLAINED) * _firmness(things)
    return Reading(tuple(t for t in things if t.radius > 0), damage, trust)


def _refitted(
    found: list[FoundThing], pixels: np.ndarray, ground: Ground, coarseness: float, blur: float
) -> list[FoundThing]:
    """The things with those outlines that, compressed like the picture, come out like it."""
    whole = [thing for thing in found if thing.radius > _SPECK and not thing.cut]
    marks = refit_marks(pixels, ground.plane, [_mark(thing) for thing in whole], coarseness, blur)
    changed = {
        id(thing): replace(thing, outline=mark.outline, radius=mark.radius, turn=mark.turn)
        for thing, mark in zip(whole, marks, strict=True)
    }
    return [changed.get(id(thing), thing) for thing in found]


def _mark(thing: FoundThing) -> Mark:
    return Mark(thing.shown_colour, thing.outline, thing.radius, thing.turn, thing.x, thing.y)


def _firmness(things: Sequence[FoundThing]) -> float:
    """Share of the things, by area, that is things and not clouds."""
    firm = whole = 0.0
    for thing in things:
        area = thing.radius**2
        cloud = max(
            _ramp(thing.softness / max(thing.radius, 1e-6), _FADES),
            _ramp(SIDE * thing.softness, _FADES_PIXELS),
        )
        firm, whole = firm + area * (1 - cloud), whole + area
    return firm / whole if whole else 1.0


def _blur(found: Sequence[FoundThing], passes: int) -> float:
    """Sigma in pixels of the blur at the things' edges, less what this module's own softening adds."""
    if not found:
        return 0.0
    weight = sum(thing.radius * thing.lightness for thing in found)
    variance = sum(thing.radius * thing.lightness * (SIDE * thing.blur) ** 2 for thing in found) / weight
    return max(variance - 0.5 * passes - _OWN_BLUR**2, 0.0) ** 0.5


def _as_pixels(picture: np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ValueError(f"a picture is (H, W, 3) uint8, got {picture.dtype} {picture.shape}")
    if picture.shape[:2] != (SIDE, SIDE):
        small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture = np.asarray(small)
    return picture


def _ramp(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _read_thing(
    pixels: np.ndarray, ground: Ground, noise: float, regions: Sequence[Region], index: int
) -> FoundThing | None:
    region = regions[index]
    radius = region.radius
    # Only the surroundings are looked at.
    reach = max(2.3 * radius, radius + 5) + 4
    rows, columns = (
        slice(max(0, int(centre - reach)), min(SIDE, int(centre + reach) + 1))
        for centre in (region.y, region.x)
    )
    here = rows, columns
    across, down, mask = ACROSS[here], DOWN[here], region.mask[here]
    beyond = np.hypot(across - region.x, down - region.y) - radius
    own = beyond < max(1.2 * radius, 5)
    for other in (*regions[:index], *regions[index + 1 :]):
        if other.radius > 0.3 * radius:
            own &= beyond < np.hypot(across - other.x, down - other.y) - other.radius
    middle = mask & (beyond < max(0.45 * radius, 1.2) - radius)
    if middle.sum() < 3:
        middle = mask
    shown = pixels[here]
    step = shown - ground.plane[here]
    colour = step[middle].mean(0)
    contrast = float(np.sqrt(colour @ colour))
    if contrast < 5:
        return None
    grain = noise / contrast
    cover = np.where(own, step @ colour / contrast**2, 0)
    kept = np.clip(cover, 0, 1)
    kept[kept < 0.08 + 0.8 * grain] = 0
    area = float(kept.sum())
    if area < _SMALLEST_AREA:
        return None
    x, y = float((kept * across).sum()) / area, float((kept * down).sum()) / area
    radius = (area / pi) ** 0.5
    own &= np.hypot(across - x, down - y) < 2 * radius + 3
    zone = cover[own]
    # The noise's own part of cover * (1 - cover) is its variance, with the other sign.
    edge = (float((zone * (1 - zone)).sum()) + grain**2 * len(zone)) / area
    sharper = _luma_edge(step, colour, own, area, edge) / edge if noise < 2 else 1.0
    outline = soft_outline(kept, x - columns.start, y - rows.start, 1.9 * radius + 2)
    outline = outline / max(float(np.mean(outline**2)) ** 0.5, 1e-6)
    fit = fit_outline(outline, edge, None)
    rims = kept[:, 0], kept[:, -1], kept[0], kept[-1]
    at_frame = columns.start == 0, columns.stop == SIDE, rows.start == 0, rows.stop == SIDE
    contact = {
        side: float(rim.sum()) if at else 0.0
        for side, rim, at in zip(FRAME_SIDES, rims, at_frame, strict=True)
    }
    side = max(contact, key=contact.get)
    if contact[side] > 1.5 + 0.15 * radius:
        cut = fit_outline(outline, edge, side)
        fit = cut if cut.residue < fit.residue + 0.01 else fit
    return FoundThing(
        colour=(0.0, 0.0, 0.0),
        outline=fit.outline,
        radius=_RADIUS_BIAS * radius * fit.radius / SIDE,
        x=(x + fit.x * radius) / SIDE,
        y=(y + fit.y * radius) / SIDE,
        turn=fit.turn,
        softness=fit.softness * radius * fit.radius / SIDE,
        blur=fit.softness * radius * fit.radius / SIDE * sharper,
        cut=fit.cut,
        shown_colour=tuple(shown[middle].mean(0).tolist()),
        contrast=contrast,
        lightness=abs(float(colour @ _LUMA)) + 10,
        grain=grain,
    )


_SMALLEST_AREA = 4.0  # pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _luma_edge(step: np.ndarray, colour: np.ndarray, own: np.ndarray, area: float, edge: float) -> float:
    """The sum of cover * (1 - cover) over the area as lightness alone shows it; `edge` if that is less."""
    lighter = float(colour @ _LUMA)
    if abs(lighter) < 20:
        return edge
    cover = step[own] @ _LUMA / lighter
    return min(edge, max(float((cover * (1 - cover)).sum()) / area, 0.2 * edge))


def _check(soft: np.ndarray, ground: Ground, found: Sequence[FoundThing], blur: float) -> tuple[float, float]:
    """Share of the picture's deviation from its ground that the things explain, and what is left (RMS)."""
    drawn = ground.plane.copy()
    for thing in sorted(found, key=lambda thing: -thing.radius):
        fill(drawn, _mark(thing))
    if blur > 0.25:
        image = Image.fromarray(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))
        drawn = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    variance = (SOFTENED_NOISE[1] * ground.noise) ** 2
    left = max(_mean_square(soft - soften(drawn)) - variance, 0.0)
    whole = max(_mean_square(soft - ground.plane) - variance, 1.0)
    return 1 - left / whole, left**0.5


def _mean_square(values: np.ndarray) -> float:
    return float(np.vdot(values, values)) / values.size


def _named(thing: FoundThing, haze: Haze, noise: float, blocky: bool) -> FoundThing:
    """The thing without haze and without small deviations from names; smaller, if it hardly stands out."""
    plain = haze.remove(thing.shown_colour)
    name, distance = nearest_named(plain)
    keep = max(0.0, 1 - _COLOUR_ERROR / max(distance, 1e-9))
    colour = tuple(own + keep * (shown - own) for own, shown in zip(PALETTE[name], plain, strict=True))
    own = min((shape_outline(shape) for shape in SHAPES), key=lambda o: outline_distance(o, thing.outline))
    softness = thing.softness / thing.radius
    allowed = _OUTLINE_ERROR + _OUTLINE_BLUR * max(0.0, softness - _SHARP)
    allowed += _OUTLINE_NOISE * thing.grain / (SIDE * thing.radius) ** 0.5
    keep = max(0.0, 1 - allowed / max(outline_distance(own, thing.outline), 1e-9))
    presence = _ramp(thing.contrast / haze.gain, _PALE)
    if noise > 0.5:
        presence *= _ramp(thing.contrast / noise, _NOISY)
    if blocky and thing.radius < _SPECK:
        presence *= 0.5  # blocks round a thing come near to its colour
    radius = thing.radius * presence if thing.radius < _SMALL or not presence else thing.radius
    return replace(thing, colour=colour, outline=own + keep * (thing.outline - own), radius=radius)
