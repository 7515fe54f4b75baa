"""The pairwise loss of reward models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rankings import untied_pairs
from ..runs.cuda import upload
from .pairs import pairs_from_ranking


def ranking_loss(rewards: Tensor, rankings: Sequence[Sequence[int]], average: str = "prompt") -> Tensor:
    """Return the mean of -log sigmoid(better - worse) over untied pairs, then over prompts.

    ImageReward, equation 1 (arXiv 2304.05977).

    Args:
        rewards: (N,) rewards of the images of all groups, group after group.
        rankings: ranks of each group's images, 1 is best; their lengths sum to N.
        average: "prompt" (mean over each prompt's pairs, then over prompts; the paper) or "pair" (mean over
            all pairs; the authors' code).

    Returns:
        A scalar; log 2 if all rewards are equal. Groups without an untied pair do not count; if there are
        no others, the loss is 0.

    Raises:
        ValueError: the lengths of the rankings do not sum to N.
    """
    return ranking_loss_sum(rewards, rankings, average) / max(loss_terms(rankings, average), 1)


def ranking_loss_sum(rewards: Tensor, rankings: Sequence[Sequence[int]], average: str = "prompt") -> Tensor:
    """Return the numerator of ``ranking_loss``, a scalar; ``loss_terms`` is the denominator.

    The loss of a batch in several parts is the sum of the numerators over the sum of the denominators.
    """
    if sum(map(len, rankings)) != len(rewards):
        raise ValueError(
            f"Cannot compute the loss: {len(rewards)} rewards for rankings of "
            f"{[len(r) for r in rankings]} images."
        )
    losses = [rewards.sum() * 0]
    pairs = [pairs_from_ranking(ranks) for ranks in rankings]
    # One copy for all groups, which does not wait for the GPU.
    pairs_on_device = upload(torch.cat([torch.empty(0, 2, dtype=torch.long), *pairs]), rewards.device)
    groups = rewards.split([len(ranks) for ranks in rankings])
    for group, group_pairs in zip(groups, pairs_on_device.split([len(p) for p in pairs])):
        better, worse = group_pairs.unbind(1)
        if len(better):
            pair_losses = F.softplus(group[worse] - group[better])
            losses.append(pair_losses.sum() if average == "pair" else pair_losses.mean())
    return torch.stack(losses).sum()


def loss_terms(rankings: Sequence[Sequence[int]], average: str = "prompt") -> int:
    """Count the groups with untied pairs ("prompt") or the untied pairs ("pair")."""
    pairs = [untied_pairs(ranks) for ranks in rankings]
    return sum(pairs) if average == "pair" else sum(map(bool, pairs))
