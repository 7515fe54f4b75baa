"""Rank correlations with ties, over the last axis, so that bootstrap resamples go through at once.

Letters in shape comments: ... any leading axes, G things ranked.
"""

from __future__ import annotations

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (..., G) of values (..., G): 1 for the highest; tied values share the mean of their ranks."""
    values = np.asarray(values, float)
    above = (values[..., None, :] > values[..., :, None]).sum(-1)
    tied = (values[..., None, :] == values[..., :, None]).sum(-1)  # itself among them
    return above + (tied + 1) / 2


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rho (...) of two (..., G): Pearson's correlation of average ranks; NaN if constant."""
    a, b = average_ranks(first), average_ranks(second)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (...) of two (..., G); NaN if one is constant."""

    def orders(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, float)
        i, j = np.triu_indices(values.shape[-1], 1)
        return np.sign(values[..., i] - values[..., j])

    a, b = orders(first), orders(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
