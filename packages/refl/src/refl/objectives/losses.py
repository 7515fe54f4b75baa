"""The terms of the loss, as pure functions of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import clean as clean_latents

from ..denoising.noise_schedule import predicted_noise, training_target

__all__ = ["denoising_loss", "distance", "grpo_loss", "nft_loss"]


def nft_loss(
    prediction_x0: Tensor, old_x0: Tensor, clean: Tensor, r: Tensor, beta: float, advantage_clip: float
) -> Tensor:
    """Return the loss of DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117) of each image, (B,).

    Two models are compared with the clean latents: one moved by ``beta`` from the old prediction toward the
    new one, and one moved as far away from it. r weighs the first and 1 - r the second. Each error is
    divided by its own size, without gradient, as in the authors' code.

    Args:
        prediction_x0: (B, ...) clean latents that the trained denoiser predicts.
        old_x0: those that the denoiser with the old weights predicts; no gradient passes through them.
        clean: (B, ...) the generated latents that were re-noised.
        r: (B,) how much an image is to be reinforced, in [0, 1]; 1/2: neither more nor less.
        beta: share of the new prediction in the compared models, above 0.
        advantage_clip: value that advantages are clipped to; a factor of the loss.
    """
    old_x0 = old_x0.detach()
    move = beta * (prediction_x0 - old_x0)
    toward, away = (_self_normalized(old_x0 + moved, clean) for moved in (move, -move))
    return advantage_clip * (r * toward + (1 - r) * away) / beta


def _self_normalized(x0: Tensor, clean: Tensor) -> Tensor:
    """Return the mean squared error of each image over its mean absolute error, (B,)."""
    error = (x0 - clean).flatten(1)
    return error.pow(2).mean(1) / error.detach().abs().mean(1).clamp(min=1e-5)


def grpo_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return the clipped loss of each image, (B,), as in Flow-GRPO (Liu et al. 2025, arXiv 2505.05470).

    Where the ratio of the probabilities has moved from 1 by more than ``clip`` toward the advantage's side,
    it has no gradient.

    Args:
        log_prob: (B,) log-probabilities of sampled latents with the trained weights.
        old_log_prob: (B,) those with the weights that sampled them; no gradient passes through them.
        advantages: (B,) advantages; an image with advantage 0 has no gradient.
        clip: largest deviation of the ratio from 1 that is rewarded, above 0.
    """
    ratio = (log_prob - old_log_prob.detach()).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def distance(
    x: Tensor, output: Tensor, reference: Tensor, alpha: Any, sigma: Any, prediction: str, space: str
) -> Tensor:
    """Return the mean squared distance between two denoisers' outputs.

    Args:
        x: (B, C, h, w) latents ``alpha * x0 + sigma * noise`` that both denoisers were given.
        output: output of the trained denoiser, shaped as ``x``.
        reference: output of the base model's denoiser, shaped as ``x``.
        alpha: factor of the clean latents, a number or (B, 1, 1, 1).
        sigma: factor of the noise, likewise.
        prediction: prediction type of the denoisers (see NoiseSchedule).
        space: compare the predicted clean latents (x0), the predicted noise (epsilon) or the predicted
            velocity (v, of a rectified flow or as in v prediction: both differ from x0 by the factor sigma).
    """
    read = predicted_noise if space == "epsilon" else clean_latents
    ours, theirs = (read(x, out, alpha, sigma, prediction) for out in (output, reference))
    difference = (ours - theirs) / sigma if space == "v" else ours - theirs
    return difference.pow(2).mean()


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
