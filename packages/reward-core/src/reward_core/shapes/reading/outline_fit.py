"""Fit a measured outline with a mixture of two named outlines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..appearance import normalized, shape_outline
from ..grammar import SHAPES
from .outline_bank import SOFTNESS, templates

_RESIDUE = 0.04  # deviation from a mixture of two named outlines that is ignored
_PAIRS = np.array(list(combinations(range(len(SHAPES)), 2)))  # (P, 2)


@dataclass(frozen=True, eq=False)
class OutlineFit:
    """The result of a fit.

    Attributes:
        residue: root-mean-square difference from the best mixture.
        outline: (120,), upright.
        softness: blur of the edge in radii.
        turn: rotation in radians.
        cut: fraction outside the frame.
        x, y, radius: center and radius of the whole thing, in visible radii.
    """

    residue: float
    outline: np.ndarray
    softness: float
    turn: float
    cut: float
    x: float
    y: float
    radius: float


def fit_outline(outline: np.ndarray, edge: float, side: str | None) -> OutlineFit:
    """Fit an outline with the nearest mixture of two named outlines.

    Args:
        outline: (120,) of unit area, measured by `soft_outline`.
        edge: see `Templates.edges`.
        side: side of the frame at which the thing is cut off, or None.
    """
    bank = templates(side)
    level = np.arange(len(SOFTNESS))
    # The softness of each shape follows from the edge, as a position between two levels: (S, C).
    straight = bank.edges[:, :, bank.turns.shape[1] // 2].transpose(1, 2, 0)  # (S, C, F)
    at = np.array([[np.interp(edge, edges, level) for edges in shape] for shape in straight])
    low = np.minimum(at.astype(int), len(SOFTNESS) - 2)
    part = (at - low).astype(np.float32)[..., None, None]
    s, c = np.ogrid[: at.shape[0], : at.shape[1]]
    levels = bank.outlines.transpose(0, 1, 3, 2, 4)  # (F, S, C, T, 120)
    seen = levels[low, s, c] * (1 - part) + levels[low + 1, s, c] * part  # (S, C, T, 120)
    seen = seen.transpose(1, 2, 0, 3).astype(np.float64)  # (C, T, S, 120)
    # Only inner products are needed. For a pair of shapes, `off` is the difference of the outline from the
    # first shape, `change` that of the second shape from the first: (C, T, P).
    products, measured = seen @ seen.swapaxes(-1, -2), seen @ outline  # (C, T, S, S), (C, T, S)
    squares = np.einsum("ctss->cts", products)
    i, j = _PAIRS.T
    off_off = outline @ outline - 2 * measured[..., i] + squares[..., i]
    off_change = measured[..., j] - measured[..., i] - products[..., i, j] + squares[..., i]
    change_change = squares[..., i] + squares[..., j] - 2 * products[..., i, j]
    shares = np.clip(off_change / np.maximum(change_change, 1e-9), 0, 1)
    residues = (off_off - 2 * shares * off_change + shares**2 * change_change) / len(outline)
    cut, t, p = (int(i) for i in np.unravel_index(int(residues.argmin()), residues.shape))
    share = float(shares[cut, t, p])
    one, other = _PAIRS[p]
    leading = one if share < 0.5 else other
    residue = max(float(residues[cut, t, p]), 0.0) ** 0.5
    mixture = (1 - share) * shape_outline(SHAPES[one]) + share * shape_outline(SHAPES[other])
    unlike = outline - (1 - share) * seen[cut, t, one] - share * seen[cut, t, other]
    mixture = mixture + max(0.0, 1 - _RESIDUE / max(residue, 1e-9)) * unlike
    # Interpolate between cut fractions: the minimum of a parabola through the residues.
    position = float(cut)
    if 0 < cut < len(residues) - 1:
        before, middle, after = residues[cut - 1 : cut + 2, t, p]
        position += 0.5 * (before - after) / max(before - 2 * middle + after, 1e-12)
    f = round(float(at[leading, cut]))
    every = np.arange(len(bank.shares))
    return OutlineFit(
        residue=residue,
        outline=normalized(np.maximum(mixture, 0.05)),
        softness=float(np.interp((1 - share) * at[one, cut] + share * at[other, cut], level, SOFTNESS)),
        turn=float(bank.turns[leading, t]),
        cut=float(np.interp(position, every, bank.shares)),
        x=float(np.interp(position, every, bank.centers[f, leading, t, :, 0])),
        y=float(np.interp(position, every, bank.centers[f, leading, t, :, 1])),
        radius=float(np.interp(position, every, bank.radii[f, leading, t])),
    )
