"""Uncertainty over prompts: bootstrap intervals and a paired sign-flip test.

The images of one prompt are not independent, so the bootstrap draws whole prompts.

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
    """A value with its 95% interval; both ends are None with fewer than two prompts."""

    value: float
    low: float | None
    high: float | None


class Resamples:
    """Bootstrap resamples over prompts, seeded and repeatable.

    Use one object for all metrics and scorers of a suite: with the same resamples, differences between
    scorers are paired.

    Args:
        prompts: number of prompts P, at least 1.
        resamples: number of resamples R.
        seed: seed of the resamples.

    Attributes:
        counts: (R, P) number of times that each resample draws each prompt.
    """

    def __init__(self, prompts: int, resamples: int = RESAMPLES, seed: int = 0):
        if prompts < 1:
            raise ValueError("Cannot resample prompts: there are none.")
        rng = np.random.default_rng([seed, prompts])
        share = np.full(prompts, 1 / prompts)
        self.counts = rng.multinomial(prompts, share, size=resamples).astype(float)  # (R, P)

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Interval:
        """Return sum(above) / sum(below) with its interval.

        Args:
            above: (P,) numerators, such as correct pairs.
            below: (P,) denominators, such as counted pairs; 0 or 1 for a mean over prompts.
        """
        above, below = np.asarray(above, float), np.asarray(below, float)
        value = float(above.sum() / below.sum())
        if np.count_nonzero(below) < 2:
            return Interval(value, None, None)
        drawn = self.counts @ below  # (R,)
        return _interval(value, (self.counts @ above)[drawn > 0] / drawn[drawn > 0])

    def statistic(self, compute: Callable[[np.ndarray], np.ndarray]) -> Interval:
        """Return a statistic with its interval.

        ``compute`` maps weights (R, P) to values (R,).
        """
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
    """Return the p-value of Fisher's randomization test for differences (P,).

    The test is two-sided.

    Under the null hypothesis, every difference is equally likely with either sign. Up to 13 nonzero
    differences, all 2^P signs are tried; above that, ``draws`` random ones (plus the observed one, so
    p > 0).
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
