"""The loss that turns comparisons into rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rankings import untied_pairs
from .pairs import pairs_from_ranking


def ranking_loss(rewards: Tensor, rankings: Sequence[Sequence[int]], average: str = "prompt") -> Tensor:
    """Mean over prompts of the mean over their untied pairs of -log sigmoid(better - worse).

    ImageReward, equation 1 (arXiv 2304.05977).

    Args:
        rewards: (N,), the groups' images one group after the other.
        rankings: places of each group's images, 1 is best; lengths add up to N.
        average: "prompt", the paper's; or "pair", the mean over all pairs alike, as the authors' code has it.

    Returns:
        A scalar; log 2 while all rewards are equal. Groups in which all is tied do not count; if
        there is no other, the loss is 0.
    """
    return ranking_loss_sum(rewards, rankings, average) / max(loss_terms(rankings, average), 1)


def ranking_loss_sum(rewards: Tensor, rankings: Sequence[Sequence[int]], average: str = "prompt") -> Tensor:
    """The numerator of `ranking_loss`, a scalar; `loss_terms` is its denominator.

    A batch in parts, on several ranks perhaps, has the loss sum of sums / sum of terms.
    """
    if sum(map(len, rankings)) != len(rewards):
        raise ValueError(f"{len(rewards)} rewards for rankings of {[len(r) for r in rankings]} images")
    losses = [rewards.sum() * 0]
    for group, ranks in zip(rewards.split([len(r) for r in rankings]), rankings):
        better, worse = pairs_from_ranking(ranks).to(rewards.device).unbind(1)
        if len(better):
            each = F.softplus(group[worse] - group[better])
            losses.append(each.sum() if average == "pair" else each.mean())
    return torch.stack(losses).sum()


def loss_terms(rankings: Sequence[Sequence[int]], average: str = "prompt") -> int:
    """How many groups with untied pairs ("prompt"), or untied pairs ("pair"), there are."""
    pairs = [untied_pairs(ranks) for ranks in rankings]
    return sum(pairs) if average == "pair" else sum(map(bool, pairs))
