"""Rank correlations with ties over the last axis, vectorized.

Letters in shape comments: ... any leading axes, G ranked items.
"""

from __future__ import annotations

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank values (..., G), 1 for the highest; ties share their mean rank."""
    values = np.asarray(values, float)
    above = (values[..., None, :] > values[..., :, None]).sum(-1)
    tied = (values[..., None, :] == values[..., :, None]).sum(-1)  # including the value itself
    return above + (tied + 1) / 2


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rho (...) of two arrays (..., G); NaN if one is constant."""
    a, b = average_ranks(first), average_ranks(second)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b (...) of two arrays (..., G); NaN if one is constant."""

    def orders(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, float)
        i, j = np.triu_indices(values.shape[-1], 1)
        return np.sign(values[..., i] - values[..., j])

    a, b = orders(first), orders(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
