"""Estimate and remove the haze over an image: a color cast (veil) and reduced contrast.

Haze maps every color c to 128 + contrast * (c + share * (veil - c) - 128), which is linear in
contrast * (1 - share) and contrast * share. So both follow by least squares from known colors: roughly that
of a usual background, and those of the things if they have named colors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import dist

from ..appearance import PALETTE, RGB, oklab
from ..degrade import CASTS

_USUAL = (232.0, 232.0, 232.0)  # mean background of `layout.sample_background`
_GRAY = 128.0
_LEAST_CONTRAST = 0.1
_NAMED = 0.06  # maximum distance in OKLab at which a color counts as the nearest named one
# Weights of the colors: backgrounds vary by a dozen levels, and unnamed colors are unreliable.
_GROUND_WEIGHT, _NAMED_WEIGHT, _UNNAMED_WEIGHT = 0.1, 0.25, 0.03
_PALETTE_LAB = {name: oklab(rgb) for name, rgb in PALETTE.items()}


@dataclass(frozen=True)
class Haze:
    """The haze of an image.

    Attributes:
        contrast: remaining contrast, in [0.1, 1].
        share: opacity of the veil, in [0, 1].
        veil: color of the veil; None without a veil.
    """

    contrast: float = 1.0
    share: float = 0.0
    veil: RGB | None = None

    @property
    def gain(self) -> float:
        """The factor by which haze reduces differences between colors."""
        return self.contrast * (1 - min(self.share, 0.6))

    def remove(self, rgb: Sequence[float]) -> RGB:
        """Return the color without haze, clipped to [0, 255]."""
        share = min(self.share, 0.6)
        veil = self.veil or (0.0, 0.0, 0.0)
        red, green, blue = (
            min(max((_GRAY + (shown - _GRAY) / self.contrast - share * over) / (1 - share), 0.0), 255.0)
            for shown, over in zip(rgb, veil, strict=True)
        )
        return red, green, blue


def nearest_named(rgb: RGB) -> tuple[str, float]:
    """Return the nearest color name and its distance in OKLab."""
    lab = oklab(rgb)
    name = min(_PALETTE_LAB, key=lambda n: dist(lab, _PALETTE_LAB[n]))
    return name, dist(lab, _PALETTE_LAB[name])


def haze_of_ground(ground: Sequence[float]) -> Haze:
    """Return a first estimate from the background's color in [0, 255]."""
    candidates = [_solve([(_USUAL, ground, 1.0)], None), *(_solve([(_USUAL, ground, 1.0)], v) for v in CASTS)]
    # A veil must explain more than five levels, the tint of a usual background.
    return min(candidates, key=lambda c: c[1] + (0 if c[0].veil is None else 25))[0]


def find_haze(ground: Sequence[float], things: Sequence[Sequence[float]], guess: Haze) -> Haze:
    """Return the haze of an image from the colors of its background and things in [0, 255].

    Starting from no haze and from the guess, alternately name the colors of the things and solve for the
    haze, up to three times. Return the result that explains the colors better, no haze in case of a tie.
    """
    best, least = Haze(), float("inf")
    for haze in (Haze(), guess):
        error, before = 0.0, None
        for _ in range(3):
            known = [(_USUAL, ground, _GROUND_WEIGHT)]
            for color in things:
                name, distance = nearest_named(haze.remove(color))
                known.append((PALETTE[name], color, _NAMED_WEIGHT if distance < _NAMED else _UNNAMED_WEIGHT))
            if known == before:
                break
            haze, error = _solve(known, haze.veil)
            before = known
        if error < least - 1:
            best, least = haze, error
    return best


_Known = tuple[Sequence[float], Sequence[float], float]  # true color, shown color, weight


def _solve(known: Sequence[_Known], veil: RGB | None) -> tuple[Haze, float]:
    """Return the haze that maps the true colors to the shown ones, and the weighted squared error."""
    pp = pv = vv = ps = vs = ss = 0.0  # sums of products: plain, veil, shown
    for plain, shown, weight in known:
        square = weight * weight
        for channel in range(3):
            p, s = plain[channel] - _GRAY, shown[channel] - _GRAY
            v = veil[channel] - _GRAY if veil else 0.0
            pp, pv, vv = pp + square * p * p, pv + square * p * v, vv + square * v * v
            ps, vs, ss = ps + square * p * s, vs + square * v * s, ss + square * s * s
    if veil is None:
        direct, veiled = ps / pp, 0.0
    else:
        whole = max(pp * vv - pv * pv, 1e-9)
        direct, veiled = (ps * vv - vs * pv) / whole, (vs * pp - ps * pv) / whole
        if veiled < 0:  # a negative opacity means no veil
            return _solve(known, None)
    error = ss - direct * ps - veiled * vs
    contrast = min(max(direct + veiled, _LEAST_CONTRAST), 1.0)
    return Haze(contrast, min(veiled / contrast, 1.0), veil), error
