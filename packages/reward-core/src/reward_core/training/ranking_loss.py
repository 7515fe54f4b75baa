"""The loss that turns comparisons into rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import pairs_from_ranking


def ranking_loss(rewards: Tensor, rankings: Sequence[Sequence[int]]) -> Tensor:
    """Mean over prompts of the mean over their untied pairs of -log sigmoid(better - worse).

    ImageReward, equation 1 (arXiv 2304.05977).

    Args:
        rewards: (N,), the groups' pictures one group after the other.
        rankings: places of each group's pictures, 1 is best; lengths add up to N.

    Returns:
        A scalar; log 2 while all rewards are equal. Groups in which all is tied do not count; if
        there is no other, the loss is 0.
    """
    if sum(map(len, rankings)) != len(rewards):
        raise ValueError(f"{len(rewards)} rewards for rankings of {[len(r) for r in rankings]} pictures")
    losses = []
    for group, places in zip(rewards.split([len(r) for r in rankings]), rankings):
        better, worse = pairs_from_ranking(places).to(rewards.device).unbind(1)
        if len(better):
            losses.append(F.softplus(group[worse] - group[better]).mean())
    return torch.stack(losses).mean() if losses else rewards.sum() * 0
