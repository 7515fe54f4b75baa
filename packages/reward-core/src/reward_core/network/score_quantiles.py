"""Quantiles of reference scores, to convert a score to a percentile."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, quantiles

LEVELS = 200


@dataclass(frozen=True)
class ScoreQuantiles:
    """Reference scores at evenly spaced levels.

    Attributes:
        values: ``values[i]`` is the quantile of the reference scores at level (i + 0.5) / len(values).
        source: description of the reference, shown with every percentile.
    """

    values: tuple[float, ...]
    source: str

    @classmethod
    def standard_normal(cls) -> ScoreQuantiles:
        """Return the quantiles of N(0, 1), to which ImageReward-v1.0 is normalized."""
        levels = ((i + 0.5) / LEVELS for i in range(LEVELS))
        return cls(tuple(round(NormalDist().inv_cdf(p), 4) for p in levels), "approximate, N(0,1)")

    @classmethod
    def of(cls, scores: Sequence[float], source: str) -> ScoreQuantiles:
        """Return the quantiles of at least two scores."""
        # With twice as many cuts, every second one is at the middle of a level.
        cuts = quantiles(scores, n=2 * LEVELS, method="inclusive")[::2]
        return cls(tuple(round(c, 4) for c in cuts), source)

    def percentile(self, score: float) -> float:
        """Return the percentage (0-100) of reference scores below ``score``."""
        above = bisect_right(self.values, score)
        count = len(self.values)
        if above == 0:
            return 0.0
        if above == count:
            return 100.0
        low, high = self.values[above - 1], self.values[above]
        return 100 * (above - 0.5 + (score - low) / (high - low)) / count
