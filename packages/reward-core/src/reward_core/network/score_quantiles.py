"""What a score means: the share of reference scores below it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, quantiles

LEVELS = 200


@dataclass(frozen=True)
class ScoreQuantiles:
    """Reference scores at evenly spaced levels, with where they come from.

    ``values[i]`` is the score below which a share of (i + 0.5) / len(values) of the reference
    scores lies; ``source`` is shown wherever a percentile is.
    """

    values: tuple[float, ...]
    source: str

    @classmethod
    def standard_normal(cls) -> ScoreQuantiles:
        """N(0, 1): what ImageReward-v1.0's normalization aims at. No figure of it was published."""
        levels = ((i + 0.5) / LEVELS for i in range(LEVELS))
        return cls(tuple(round(NormalDist().inv_cdf(p), 4) for p in levels), "approximate, N(0,1)")

    @classmethod
    def of(cls, scores: Sequence[float], source: str) -> ScoreQuantiles:
        """Measured on ``scores`` (two at least)."""
        # Twice as many cuts, of which every other one lies in the middle of its level.
        cuts = quantiles(scores, n=2 * LEVELS, method="inclusive")[::2]
        return cls(tuple(round(c, 4) for c in cuts), source)

    def percentile(self, score: float) -> float:
        """Percent (0-100) of reference scores below ``score``, linear between the levels kept."""
        above = bisect_right(self.values, score)
        count = len(self.values)
        if above == 0:
            return 0.0
        if above == count:
            return 100.0
        low, high = self.values[above - 1], self.values[above]
        return 100 * (above - 0.5 + (score - low) / (high - low)) / count
