"""The appearance of words: RGB values of color names, outlines of shape names, radii of size names.

Each attribute has a scale on which one value can be blended into another. So faults can be partial, and the
error of an attribute is a distance that can be measured in pixels too.
"""

from __future__ import annotations

from functools import cache
from math import atan2, cos, dist, hypot, log, pi, sin

import numpy as np

from .grammar import SHAPES

RGB = tuple[float, float, float]  # red, green, blue in [0, 255]

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 38),
    "orange": (250, 138, 22),
    "yellow": (247, 216, 30),
    "green": (44, 160, 60),
    "cyan": (50, 205, 215),
    "blue": (44, 88, 226),
    "purple": (134, 50, 178),
    "pink": (250, 120, 200),
}

#: Radius of the circle with the same area, as a fraction of the image's side.
RADII = {"small": 0.1, "big": 0.155}
RADIUS_JITTER = 0.05  # relative random variation of the radius in both directions

#: Maximum random rotation in both directions, in degrees (a square must not become a diamond).
TURNS = {"circle": 0.0, "square": 8.0, "triangle": 10.0, "star": 10.0, "cross": 8.0}

# An outline is the distance from the center to the edge at 120 angles, every 3 degrees counter-clockwise
# from "right". All corners below fall on these angles, so edges stay straight and corners sharp.
OUTLINE_STEPS = 120
ANGLES = np.arange(OUTLINE_STEPS) * (2 * pi / OUTLINE_STEPS)  # (120,)
_CROSS_INNER = 2**0.5 * sin(pi / 10)  # puts the arm's corners at 18 degrees from its axis


def _corners(shape: str) -> list[tuple[float, float]]:
    """Return (angle in degrees, radius) of each corner, counter-clockwise."""
    if shape == "square":
        return [(45 + 90 * k, 1.0) for k in range(4)]
    if shape == "triangle":
        return [(90 + 120 * k, 1.0) for k in range(3)]
    if shape == "star":
        return [(90 + 36 * k, 0.5 if k % 2 else 1.0) for k in range(10)]
    arm = [(-18, 1.0), (18, 1.0), (45, _CROSS_INNER)]
    return [(angle + 90 * k, radius) for k in range(4) for angle, radius in arm]


def normalized(outline: np.ndarray) -> np.ndarray:
    """Scale an outline to the area of the unit circle, so that sizes are comparable between shapes."""
    area = 0.5 * float(np.dot(outline, np.roll(outline, -1))) * sin(2 * pi / OUTLINE_STEPS)
    return outline * (pi / area) ** 0.5


@cache
def shape_outline(shape: str) -> np.ndarray:
    """Return the read-only outline (120,) of a named shape, with the area of the unit circle."""
    if shape == "circle":
        outline = np.ones(OUTLINE_STEPS)
    else:
        corners = [(np.deg2rad(angle), radius) for angle, radius in _corners(shape)]
        points = np.array([(radius * cos(angle), radius * sin(angle)) for angle, radius in corners])
        outline = np.full(OUTLINE_STEPS, np.nan)
        for (start, _), (end, _), p, q in zip(
            corners, corners[1:] + corners[:1], points, np.roll(points, -1, 0), strict=True
        ):
            turn = (ANGLES - start) % (2 * pi)
            on_edge = np.minimum(turn, 2 * pi - turn) < 1e-9
            on_edge |= turn <= (end - start) % (2 * pi) + 1e-9
            step = q - p
            along = np.cos(ANGLES[on_edge]) * step[1] - np.sin(ANGLES[on_edge]) * step[0]
            outline[on_edge] = (p[0] * step[1] - p[1] * step[0]) / along
    outline = normalized(outline)
    outline.setflags(write=False)
    return outline


def blend_outline(shape: str, other: str, share: float) -> np.ndarray:
    """Return the outline (120,) that is `share` in [0, 1] of the way from `shape` to `other`."""
    if share == 0:
        return shape_outline(shape)
    return normalized((1 - share) * shape_outline(shape) + share * shape_outline(other))


def outline_distance(outline: np.ndarray, other: np.ndarray) -> float:
    """Return the root-mean-square difference of two outlines (120,), in units of the equal-area radius."""
    step = outline - other
    return float(np.dot(step, step) / OUTLINE_STEPS) ** 0.5


def oklab(rgb: RGB) -> tuple[float, float, float]:
    """Convert sRGB in [0, 255] to OKLab (lightness in [0, 1], a, b). Source: B. Ottosson, "Oklab", 2020."""
    r, g, b = ((c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in rgb))
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def oklab_to_rgb(lab: tuple[float, float, float]) -> RGB:
    """Convert OKLab to sRGB; colors outside the gamut are clipped to [0, 255]."""
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    clipped = (min(max(c, 0.0), 1.0) for c in linear)
    red, green, blue = (
        255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055) for c in clipped
    )
    return red, green, blue


def palette_rgb(color: str) -> RGB:
    """Return a color of the palette as three floats in [0, 255]."""
    red, green, blue = PALETTE[color]
    return float(red), float(green), float(blue)


def blend_color(color: str, other: str, share: float) -> RGB:
    """Return the color that is `share` in [0, 1] of the way from `color` to `other` along the hue circle.

    The hue circle keeps colors vivid: half-way between red and cyan a straight line passes through gray,
    and a gray thing could be hard to see on the background.
    """
    if share in (0, 1):
        return palette_rgb(other if share else color)
    (l0, a0, b0), (l1, a1, b1) = oklab(PALETTE[color]), oklab(PALETTE[other])
    hue = atan2(b0, a0)
    turn = (atan2(b1, a1) - hue + pi) % (2 * pi) - pi
    hue += share * turn
    chroma = (1 - share) * hypot(a0, b0) + share * hypot(a1, b1)
    return oklab_to_rgb(((1 - share) * l0 + share * l1, chroma * cos(hue), chroma * sin(hue)))


def nearest_color(rgb: RGB) -> str:
    """Return the color name nearest to an sRGB color in [0, 255], by distance in OKLab."""
    lab = oklab(rgb)
    return min(PALETTE, key=lambda name: dist(lab, _palette_oklab(name)))


def nearest_shape(outline: np.ndarray) -> str:
    """Return the shape name nearest to an upright outline (120,) of unit-circle area."""
    return min(SHAPES, key=lambda name: outline_distance(outline, shape_outline(name)))


@cache
def _palette_oklab(color: str) -> tuple[float, float, float]:
    return oklab(PALETTE[color])


def blend_radius(size: str, other: str, share: float) -> float:
    """Return the radius `share` of the way (in logarithms) from the edge of `size`'s range to `other`."""
    toward = 1 if RADII[other] > RADII[size] else -1
    start = log(RADII[size] * (1 + toward * RADIUS_JITTER))
    return float(np.exp((1 - share) * start + share * log(RADII[other])))
