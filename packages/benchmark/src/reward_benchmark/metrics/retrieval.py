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
    return _chance_of_a_hit(k, np.asarray(scores, float), np.asarray(ranks) == best)


def filtered_at(k: int, ranks: Sequence[int], scores: Sequence[float]) -> float:
    """The same for an image that people put last among the scorer's bottom k."""
    worst = max(ranks)
    return _chance_of_a_hit(k, -np.asarray(scores, float), np.asarray(ranks) == worst)


def _chance_of_a_hit(k: int, scores: np.ndarray, wanted: np.ndarray) -> float:
    """Chance that a wanted entry is among the k highest, ties at the border broken at random."""
    if not np.isfinite(scores).all():
        raise ValueError(f"the scores must be finite numbers, got {scores.tolist()}")
    if k >= len(scores):
        return 1.0
    border = np.sort(scores)[-k]
    if (wanted & (scores > border)).any():
        return 1.0
    tied = scores == border
    room = k - int((scores > border).sum())
    total, hits = int(tied.sum()), int((tied & wanted).sum())
    missed = 1.0
    for i in range(room):  # drawing `room` of the tied without any of the wanted
        missed *= max(0, total - hits - i) / (total - i)
    return 1.0 - missed
