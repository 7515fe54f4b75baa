"""The terms of the loss, as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise_schedule import NoiseSchedule, training_target


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


def distance(
    schedule: NoiseSchedule, step: int, x: Tensor, output: Tensor, reference: Tensor, space: str
) -> Tensor:
    """Return the mean squared distance between two denoisers' outputs at one step.

    Args:
        schedule: levels of the steps.
        step: index of the step.
        x: (B, C, h, w) latents that both denoisers were given.
        output: output of the trained denoiser, shaped as ``x``.
        reference: output of the base model's denoiser, shaped as ``x``.
        space: compare the predicted clean latents ("x0") or the predicted noise ("epsilon").
    """
    convert = schedule.clean if space == "x0" else schedule.noise
    return (convert(x, output, step) - convert(x, reference, step)).pow(2).mean()


def denoising_loss(
    x0: Tensor, noise: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor, kind: str
) -> Tensor:
    """Return the mean squared error of the denoiser's output (ordinary loss).

    Args:
        x0: (B, C, h, w) clean latents.
        noise: standard normal noise, shaped as ``x0``.
        output: denoiser output for ``alpha * x0 + sigma * noise``, shaped as ``x0``.
        alpha: (B,) factors of the clean latents.
        sigma: (B,) factors of the noise.
        kind: prediction type of the denoiser (see NoiseSchedule).
    """
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in (alpha, sigma))
    return (output - training_target(x0, noise, alpha, sigma, kind)).pow(2).mean()
