"""Comparisons that follow from a ranking of one prompt's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pairs_from_ranking(places: Sequence[int]) -> Tensor:
    """All untied comparisons: (M, 2) int64 rows (better, worse) of indices into ``places``."""
    place = torch.as_tensor(list(places))
    return (place[:, None] < place[None, :]).nonzero()


def pairwise_accuracy(rewards: Tensor, places: Sequence[int]) -> tuple[int, int]:
    """(comparisons that the rewards get right, untied comparisons); an equal reward counts as wrong."""
    better, worse = pairs_from_ranking(places).unbind(1)
    return int((rewards[better] > rewards[worse]).sum()), len(better)
