"""The terms of the loss, pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise_schedule import NoiseSchedule, training_target


def reward_loss(rewards: Tensor, phi: str, target: float) -> Tensor:
    """Rewards (N,) -> losses (N,), lower is better.

    relu: max(target - r, 0), ImageReward's phi, flat beyond the target; linear: -r; clipped:
    -min(r, target), which differs from relu by a constant alone.
    """
    if phi == "relu":
        return torch.relu(target - rewards)
    if phi == "linear":
        return -rewards
    if phi == "clipped":
        return -rewards.clamp(max=target)
    raise ValueError(f"unknown phi {phi!r}")


def distance(
    schedule: NoiseSchedule, step: int, x: Tensor, output: Tensor, reference: Tensor, space: str
) -> Tensor:
    """Mean squared distance () between two denoisers' outputs at one step, read as x0 or as noise."""
    read = schedule.clean if space == "x0" else schedule.noise
    return (read(x, output, step) - read(x, reference, step)).pow(2).mean()


def denoising_loss(
    x0: Tensor, noise: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor, kind: str
) -> Tensor:
    """The ordinary training loss (): mean squared error of the denoiser's output.

    Args:
        x0: (B, C, h, w) clean latents.
        noise: normal noise, as x0.
        output: the denoiser's answer to alpha * x0 + sigma * noise.
        alpha: (B,) shares of the clean latents.
        sigma: (B,) shares of noise.
        kind: what the denoiser predicts (see noise_schedule).
    """
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in (alpha, sigma))
    return (output - training_target(x0, noise, alpha, sigma, kind)).pow(2).mean()
