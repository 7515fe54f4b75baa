"""Rewards to a loss, and several rewards to one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ensemble", "reward_loss"]


def reward_loss(rewards: Tensor, phi: str, target: float) -> Tensor:
    """Map rewards (N,) to losses (N,), lower is better.

    Args:
        rewards: (N,) rewards r.
        phi: relu (``max(target - r, 0)``, the phi of ImageReward), linear (``-r``) or clipped
            (``-min(r, target)``, relu minus the constant ``target``).
        target: reward above which relu and clipped give no gradient.
    """
    if phi == "relu":
        return torch.relu(target - rewards)
    if phi == "linear":
        return -rewards
    if phi == "clipped":
        return -rewards.clamp(max=target)
    raise ValueError(f"Cannot use phi={phi!r}: it must be relu, linear or clipped.")


def ensemble(values: Tensor, kind: str, k: float) -> Tensor:
    """Return one number (N,) for each image from its weighted rewards (R, N).

    Args:
        values: (R, N) rewards times weights, on one scale.
        kind: sum, min (the lowest reward counts) or lower (the mean minus ``k`` standard deviations).
        k: number of standard deviations for lower.
    """
    if kind == "sum":
        return values.sum(0)
    if kind == "min":
        return values.amin(0)
    variance = (values - values.mean(0)).pow(2).mean(0)
    return values.mean(0) - k * (variance + 1e-12).sqrt()  # finite gradient where all rewards are equal
