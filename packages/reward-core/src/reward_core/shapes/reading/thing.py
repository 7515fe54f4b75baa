"""Read one thing: its color, outline, size, position and contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi

import numpy as np

from ..appearance import PALETTE, RGB, outline_distance, shape_outline
from ..grammar import SHAPES
from ..render import Mark
from .haze import Haze, nearest_named
from .outline_bank import FRAME_SIDES, soft_outline
from .outline_fit import fit_outline
from .segmentation import ACROSS, DOWN, SIDE, Ground, Region

SPECK = 0.055  # radius; in a JPEG, anything smaller is probably an artifact

# Deviations that are dropped as errors of the reading: distance in OKLab; distance of outlines, increased
# for edges softer than a sharp edge and for noise.
_COLOR_ERROR, _OUTLINE_ERROR, _OUTLINE_BLUR, _SHARP, _OUTLINE_NOISE = 0.025, 0.018, 0.12, 0.06, 0.5
_RADIUS_BIAS = 0.995  # true radius / measured radius, on clean images
_PALE = (45.0, 90.0)  # contrast without haze from which a thing starts to count, and counts fully
_NOISY = (3.0, 6.0)  # the same for contrast / noise
_SMALL = 0.08  # radius; larger things are not shrunk for being pale
_SMALLEST_AREA = 4.0  # pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LEAST_LIGHTNESS = 10.0  # minimum difference in lightness from the background to measure edges by lightness
_HUE_BLURRED = 0.7  # ratio of the edges of lightness and of all channels below which hue is blurred


@dataclass(frozen=True, eq=False)
class FoundThing:
    """One thing in an image, a `truth.Shown`. Lengths are fractions of the image's side.

    Attributes:
        color: color without haze.
        outline: (120,), upright.
        radius, x, y: radius and center.
        turn: rotation in radians.
        softness: sigma of the edges.
        blur: sigma of the edges in lightness only, which most JPEG files keep sharper than hue.
        cut: fraction of the width or height outside the frame.
        shown_color: color with haze.
        contrast: difference from the background in levels.
        lightness: difference from the background in lightness, plus 10.
        grain: noise / contrast.
    """

    color: RGB
    outline: np.ndarray
    radius: float
    x: float
    y: float
    turn: float
    softness: float
    blur: float
    cut: float
    shown_color: RGB
    contrast: float
    lightness: float
    grain: float

    @property
    def mark(self) -> Mark:
        """The thing as a mark in the shown color."""
        return Mark(self.shown_color, self.outline, self.radius, self.turn, self.x, self.y)


def ramp(value: float, bounds: tuple[float, float]) -> float:
    """Map a value linearly to [0, 1]: 0 up to the first bound, 1 from the second."""
    low, high = bounds
    return min(1.0, max(0.0, (value - low) / (high - low)))


def read_thing(
    pixels: np.ndarray, ground: Ground, noise: float, regions: Sequence[Region], index: int
) -> FoundThing | None:
    """Read the thing in a region, with haze; return None if its contrast or area is too small.

    Args:
        pixels: (64, 64, 3) float32, softened or not.
        ground: the background.
        noise: sigma of the noise in the pixels.
        regions: all regions of the image.
        index: index of the region to read.
    """
    region = regions[index]
    radius = region.radius
    # Crop to the surroundings of the region.
    reach = max(2.3 * radius, radius + 5) + 4
    rows, columns = (
        slice(max(0, int(center - reach)), min(SIDE, int(center + reach) + 1))
        for center in (region.y, region.x)
    )
    crop = rows, columns
    across, down, mask = ACROSS[crop], DOWN[crop], region.mask[crop]
    beyond = np.hypot(across - region.x, down - region.y) - radius
    nearby = beyond < max(1.2 * radius, 5)
    for other in (*regions[:index], *regions[index + 1 :]):
        if other.radius > 0.3 * radius:
            nearby &= beyond < np.hypot(across - other.x, down - other.y) - other.radius
    middle = mask & (beyond < max(0.45 * radius, 1.2) - radius)
    if middle.sum() < 3:
        middle = mask
    shown = pixels[crop]
    step = shown - ground.plane[crop]
    color = step[middle].mean(0)
    contrast = float(np.sqrt(color @ color))
    if contrast < 5:
        return None
    grain = noise / contrast
    cover = np.where(nearby, step @ color / contrast**2, 0)
    coverage = np.clip(cover, 0, 1)
    coverage[coverage < 0.08 + 0.8 * grain] = 0
    area = float(coverage.sum())
    if area < _SMALLEST_AREA:
        return None
    x, y = float((coverage * across).sum()) / area, float((coverage * down).sum()) / area
    radius = (area / pi) ** 0.5
    nearby &= np.hypot(across - x, down - y) < 2 * radius + 3
    zone = cover[nearby]
    # Noise lowers cover * (1 - cover) by its variance.
    edge = (float((zone * (1 - zone)).sum()) + grain**2 * len(zone)) / area
    light = _light_cover(step, color, nearby) if noise < 2 else None
    sharper = 1.0
    if light is not None:
        light_edge = max(float((light[nearby] * (1 - light[nearby])).sum()) / area, 0.2 * edge)
        sharper = min(light_edge / edge, 1.0)
        if sharper < _HUE_BLURRED:  # hue is blurred, so lightness shows the outline better
            coverage, edge, sharper = np.clip(light, 0, 1), light_edge, 1.0
            coverage[coverage < 0.08] = 0
    outline = soft_outline(coverage, x - columns.start, y - rows.start, 1.9 * radius + 2)
    outline = outline / max(float(np.mean(outline**2)) ** 0.5, 1e-6)
    fit = fit_outline(outline, edge, None)
    rims = coverage[:, 0], coverage[:, -1], coverage[0], coverage[-1]
    at_frame = columns.start == 0, columns.stop == SIDE, rows.start == 0, rows.stop == SIDE
    contact = {
        side: float(rim.sum()) if at else 0.0
        for side, rim, at in zip(FRAME_SIDES, rims, at_frame, strict=True)
    }
    side = max(contact, key=contact.__getitem__)
    if contact[side] > 1.5 + 0.15 * radius:
        cut = fit_outline(outline, edge, side)
        fit = cut if cut.residue < fit.residue + 0.01 else fit
    return FoundThing(
        color=(0.0, 0.0, 0.0),
        outline=fit.outline,
        radius=_RADIUS_BIAS * radius * fit.radius / SIDE,
        x=(x + fit.x * radius) / SIDE,
        y=(y + fit.y * radius) / SIDE,
        turn=fit.turn,
        softness=fit.softness * radius * fit.radius / SIDE,
        blur=fit.softness * radius * fit.radius / SIDE * sharper,
        cut=fit.cut,
        shown_color=tuple(shown[middle].mean(0).tolist()),
        contrast=contrast,
        lightness=abs(float(color @ _LUMA)) + 10,
        grain=grain,
    )


def _light_cover(step: np.ndarray, color: np.ndarray, nearby: np.ndarray) -> np.ndarray | None:
    """Return the cover measured by lightness only; None if the thing is hardly lighter or darker."""
    lighter = float(color @ _LUMA)
    if abs(lighter) < _LEAST_LIGHTNESS:
        return None
    return np.where(nearby, step @ _LUMA / lighter, 0)


def name_thing(thing: FoundThing, haze: Haze, noise: float, blocky: bool) -> FoundThing:
    """Return the thing without haze and small deviations from named values; shrunk if its contrast is low."""
    plain = haze.remove(thing.shown_color)
    name, distance = nearest_named(plain)
    keep = max(0.0, 1 - _COLOR_ERROR / max(distance, 1e-9))
    red, green, blue = (
        level + keep * (shown - level) for level, shown in zip(PALETTE[name], plain, strict=True)
    )
    named = min((shape_outline(shape) for shape in SHAPES), key=lambda o: outline_distance(o, thing.outline))
    softness = thing.softness / thing.radius
    allowed = _OUTLINE_ERROR + _OUTLINE_BLUR * max(0.0, softness - _SHARP)
    allowed += _OUTLINE_NOISE * thing.grain / (SIDE * thing.radius) ** 0.5
    keep = max(0.0, 1 - allowed / max(outline_distance(named, thing.outline), 1e-9))
    presence = ramp(thing.contrast / haze.gain, _PALE)
    if noise > 0.5:
        presence *= ramp(thing.contrast / noise, _NOISY)
    if blocky and thing.radius < SPECK:
        presence *= 0.5  # JPEG blocks around a thing have a similar color
    radius = thing.radius * presence if thing.radius < _SMALL or not presence else thing.radius
    outline = named + keep * (thing.outline - named)
    return replace(thing, color=(red, green, blue), outline=outline, radius=radius)
