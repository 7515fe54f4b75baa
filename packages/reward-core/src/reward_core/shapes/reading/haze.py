"""What lies over a whole image, a veil of one color and a loss of contrast, and how to look through it.

Both move every color c in the same way, to 128 + kept * (c + share * (veil - c) - 128), which is linear in
kept * (1 - share) and kept * share. So they follow by least squares from colors that are known: that of
the usual ground, roughly, and those of the things, if each has one of the named colors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import dist

from ..appearance import PALETTE, RGB, oklab
from ..degrade import CASTS

_USUAL = (232.0, 232.0, 232.0)  # a ground; middle of the levels that `layout.sample_background` gives
_GRAY = 128.0
_LEAST_CONTRAST = 0.1
_NAMED = 0.06  # distance in OKLab within which a color is taken for the nearest named one
# Weights of the colors: grounds differ by a dozen levels; what is near no named color may be anything.
_GROUND_WEIGHT, _NAMED_WEIGHT, _UNNAMED_WEIGHT = 0.1, 0.25, 0.03
_PALETTE_LAB = {name: oklab(rgb) for name, rgb in PALETTE.items()}


@dataclass(frozen=True)
class Haze:
    """kept: contrast, in [0.1, 1]. share: of the veil, in [0, 1]. veil: its color, None for no veil."""

    contrast: float = 1.0
    share: float = 0.0
    veil: RGB | None = None

    @property
    def gain(self) -> float:
        """What differences between colors are multiplied with."""
        return self.contrast * (1 - min(self.share, 0.6))

    def remove(self, rgb: Sequence[float]) -> RGB:
        """The color behind the haze, clipped to [0, 255]."""
        share = min(self.share, 0.6)
        veil = self.veil or (0.0, 0.0, 0.0)
        red, green, blue = (
            min(max((_GRAY + (shown - _GRAY) / self.contrast - share * over) / (1 - share), 0.0), 255.0)
            for shown, over in zip(rgb, veil, strict=True)
        )
        return red, green, blue


def nearest_named(rgb: RGB) -> tuple[str, float]:
    """The nearest color name and the distance to it in OKLab."""
    shown = oklab(rgb)
    name = min(_PALETTE_LAB, key=lambda n: dist(shown, _PALETTE_LAB[n]))
    return name, dist(shown, _PALETTE_LAB[name])


def haze_of_ground(ground: Sequence[float]) -> Haze:
    """A first guess from the ground's color, [0, 255], alone."""
    candidates = [_solve([(_USUAL, ground, 1.0)], None), *(_solve([(_USUAL, ground, 1.0)], v) for v in CASTS)]
    # A veil has to explain more than five levels, the tint of an ordinary ground.
    return min(candidates, key=lambda c: c[1] + (0 if c[0].veil is None else 25))[0]


def find_haze(ground: Sequence[float], things: Sequence[Sequence[float]], guess: Haze) -> Haze:
    """The haze over an image from its ground's color and its things' colors, [0, 255].

    From two starts, no haze and the guess that the ground suggests, things are given names and the haze
    is solved for, up to three times; the start that explains the colors better wins, no haze if equal.
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


_Known = tuple[Sequence[float], Sequence[float], float]  # a color as it is, as it is shown, its weight


def _solve(known: Sequence[_Known], veil: RGB | None) -> tuple[Haze, float]:
    """The haze that turns plain colors into those shown, and the weighted square error that remains."""
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
        if veiled < 0:  # the opposite of this veil: none of it
            return _solve(known, None)
    error = ss - direct * ps - veiled * vs
    contrast = min(max(direct + veiled, _LEAST_CONTRAST), 1.0)
    return Haze(contrast, min(veiled / contrast, 1.0), veil), error
