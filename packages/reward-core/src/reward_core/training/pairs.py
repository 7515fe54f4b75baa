"""The comparisons in a ranking of one prompt's images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pairs_from_ranking(ranks: Sequence[int]) -> Tensor:
    """Return all untied comparisons as (M, 2) int64: rows (better, worse) of indices into ``ranks``."""
    rank = torch.as_tensor(list(ranks))
    return (rank[:, None] < rank[None, :]).nonzero()


def pairwise_accuracy(rewards: Tensor, ranks: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of correct and of all untied comparisons; equal rewards count as wrong."""
    better, worse = pairs_from_ranking(ranks).unbind(1)
    return int((rewards[better] > rewards[worse]).sum()), len(better)
