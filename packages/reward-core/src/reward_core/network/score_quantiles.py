"""What a score means: the share of reference scores below it."""

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
        values: ``values[i]`` is the score with a share of (i + 0.5) / len(values) of the reference below it.
        source: where the reference comes from; shown beside every percentile.
    """

    values: tuple[float, ...]
    source: str

    @classmethod
    def standard_normal(cls) -> ScoreQuantiles:
        """Return those of N(0, 1), at which ImageReward-v1.0's normalization aims; none were published."""
        levels = ((i + 0.5) / LEVELS for i in range(LEVELS))
        return cls(tuple(round(NormalDist().inv_cdf(p), 4) for p in levels), "approximate, N(0,1)")

    @classmethod
    def of(cls, scores: Sequence[float], source: str) -> ScoreQuantiles:
        """Return the quantiles of at least two scores."""
        # Of twice as many cuts, every other one is in the middle of its level.
        cuts = quantiles(scores, n=2 * LEVELS, method="inclusive")[::2]
        return cls(tuple(round(c, 4) for c in cuts), source)

    def percentile(self, score: float) -> float:
        """Return the percent (0-100) of reference scores below ``score``, linear between levels."""
        above = bisect_right(self.values, score)
        count = len(self.values)
        if above == 0:
            return 0.0
        if above == count:
            return 100.0
        low, high = self.values[above - 1], self.values[above]
        return 100 * (above - 0.5 + (score - low) / (high - low)) / count
