"""Recall@k and Filter@k, rebuilt: the authors' set of 371 prompts with 8 images each is lost.

Every published value is a multiple of 1/371, so each is a share of prompts. Groups of 8 or more are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KS = (1, 2, 4)
MIN_IMAGES = 8


def recalled_at(k: int, ranks: Sequence[int], scores: Sequence[float]) -> float:
    """Whether an image that people put first is among the scorer's top k: 1, 0, or between on ties.

    With several tied at best for people, any of them counts. Where the scorer ties images across the
    border of its top k, the chance that a random order of the tied finds one; so a constant scorer gets
    what a random one gets, whatever the order of the files.
    """
    best = min(ranks)
    return _hit_probability(k, np.asarray(scores, float), np.asarray(ranks) == best)


def filtered_at(k: int, ranks: Sequence[int], scores: Sequence[float]) -> float:
    """The same for an image that people put last among the scorer's bottom k."""
    worst = max(ranks)
    return _hit_probability(k, -np.asarray(scores, float), np.asarray(ranks) == worst)


def _hit_probability(k: int, scores: np.ndarray, relevant: np.ndarray) -> float:
    """Chance that a relevant entry is among the k highest, ties at the border broken at random."""
    if not np.isfinite(scores).all():
        raise ValueError(f"the scores must be finite numbers, got {scores.tolist()}")
    if k >= len(scores):
        return 1.0
    border = np.sort(scores)[-k]
    if (relevant & (scores > border)).any():
        return 1.0
    tied = scores == border
    remaining = k - int((scores > border).sum())
    total, hits = int(tied.sum()), int((tied & relevant).sum())
    miss_probability = 1.0
    for i in range(remaining):  # drawing `remaining` of the tied without any relevant one
        miss_probability *= max(0, total - hits - i) / (total - i)
    return 1.0 - miss_probability
