"""Uncertainty over prompts: percentile bootstrap intervals and a paired sign-flip test.

Prompts are what was sampled, and images of one prompt hang together; so whole prompts are drawn.

Letters in shape comments: P prompts, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..json_record import JsonRecord

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval(JsonRecord):
    """A value with its 95% interval; both ends are None where fewer than two prompts have it."""

    value: float
    low: float | None
    high: float | None


class Resamples:
    """How often each of P prompts is drawn in each of R bootstrap resamples; seeded, so repeatable.

    One object serves all metrics and scorers of a suite: they then see the same resamples, which makes
    differences between scorers paired.
    """

    def __init__(self, prompts: int, resamples: int = RESAMPLES, seed: int = 0):
        if prompts < 1:
            raise ValueError("no prompts to resample")
        rng = np.random.default_rng([seed, prompts])
        share = np.full(prompts, 1 / prompts)
        self.counts = rng.multinomial(prompts, share, size=resamples).astype(float)  # (R, P)

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Interval:
        """Interval of sum(above) / sum(below), both (P,): pooled shares, and means with 0/1 below."""
        above, below = np.asarray(above, float), np.asarray(below, float)
        value = float(above.sum() / below.sum())
        if np.count_nonzero(below) < 2:
            return Interval(value, None, None)
        drawn = self.counts @ below  # (R,)
        return _interval(value, (self.counts @ above)[drawn > 0] / drawn[drawn > 0])

    def statistic(self, compute: Callable[[np.ndarray], np.ndarray]) -> Interval:
        """Interval of any statistic: ``compute`` takes weights (R, P) to values (R,)."""
        prompts = self.counts.shape[1]
        value = float(compute(np.ones((1, prompts)))[0])
        return _interval(value, compute(self.counts)) if prompts > 1 else Interval(value, None, None)


def _interval(value: float, drawn: np.ndarray) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def sign_flip_test(differences: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that the paired differences (P,) are as often above as below zero on the whole.

    Under the null each prompt's difference could as well have had the other sign. All 2^P signs are gone
    through up to 13 prompts, beyond that ``draws`` random ones (the observed one counted in, so p > 0).
    Source: Fisher's randomisation test.
    """
    differences = np.asarray(differences, float)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    observed = abs(differences.sum()) * (1 - 1e-12)  # rounding must not break a tie
    if len(differences) <= 13:
        codes = np.arange(2 ** len(differences))
        signs = 1 - 2 * ((codes[:, None] >> np.arange(len(differences))) & 1)
        return float(np.mean(np.abs(signs @ differences) >= observed))
    rng = np.random.default_rng([seed, len(differences)])
    signs = rng.integers(0, 2, (draws, len(differences)), dtype=np.int8) * 2 - 1
    return float((1 + np.count_nonzero(np.abs(signs @ differences) >= observed)) / (draws + 1))
