"""Averaging, clipping and measuring of gradients before an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def average_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients by their mean over all ranks, in one all-reduce.

    This replaces DistributedDataParallel, which expects one forward pass per backward pass and gradients
    for all parameters; a rollout calls the denoiser many times and may leave parameters unused.
    """
    if accelerator.num_processes == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    start = 0
    for gradient in gradients:
        count = gradient.numel()
        gradient.copy_(flat[start : start + count].view_as(gradient))
        start += count


def clip_gradients(
    accelerator: Accelerator, optimizer: Any, parameters: Sequence[nn.Parameter], limit: float
) -> float:
    """Clip gradients to the global norm ``limit`` (0: none); return their norm."""
    accelerator.unscale_gradients(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    return float(norm)


def zero_gradient_share(pixels: Tensor) -> Tensor:
    """Return the share of images (N, 3, H, W) that got no gradient, a scalar.

    The rewards of these images are saturated.
    """
    if pixels.grad is None:
        return pixels.new_ones(())
    return (pixels.grad.flatten(1).abs().amax(1) == 0).float().mean()
