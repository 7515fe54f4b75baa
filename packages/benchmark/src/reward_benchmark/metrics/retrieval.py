"""Recall@k and Filter@k, reconstructed from the paper.

The authors' 371 prompts with 8 images each were not published. Every published value is a multiple of
1/371, so it is a share of prompts. This module uses prompts with at least 8 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KS = (1, 2, 4)
MIN_IMAGES = 8


def recalled_at(k: int, ranks: Sequence[int], scores: Sequence[float]) -> float:
    """Return 1 if an image of people's best rank is in the top k, else 0.

    If several images share the best rank, any of them counts. If the scorer ties images across the border
    of its top k, the result is the probability with ties broken at random, in [0, 1]. A constant scorer
    therefore gets the value of a random one, regardless of the order of the files.
    """
    best = min(ranks)
    return _hit_probability(k, np.asarray(scores, float), np.asarray(ranks) == best)


def filtered_at(k: int, ranks: Sequence[int], scores: Sequence[float]) -> float:
    """Return 1 if an image of people's worst rank is in the bottom k, else 0.

    Ties count as in ``recalled_at``.
    """
    worst = max(ranks)
    return _hit_probability(k, -np.asarray(scores, float), np.asarray(ranks) == worst)


def _hit_probability(k: int, scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return the probability that a relevant item is in the top k.

    Ties at the border are broken at random.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"Cannot evaluate the scores: they must be finite numbers, got {scores.tolist()}.")
    if k >= len(scores):
        return 1.0
    border = np.sort(scores)[-k]
    if (relevant & (scores > border)).any():
        return 1.0
    tied = scores == border
    remaining = k - int((scores > border).sum())
    total, hits = int(tied.sum()), int((tied & relevant).sum())
    miss_probability = 1.0
    for i in range(remaining):  # draw `remaining` of the tied items, none of them relevant
        miss_probability *= max(0, total - hits - i) / (total - i)
    return 1.0 - miss_probability
