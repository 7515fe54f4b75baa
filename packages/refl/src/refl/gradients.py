"""Gradients between backward and step: averaged over ranks, clipped, looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def average_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """The mean of all ranks' gradients, in place, in one exchange.

    Once a step and by hand rather than through DistributedDataParallel: a rollout calls the denoiser many
    times before its backward pass, some of its parameters perhaps never, and accumulation needs no exchange.
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
    """Scale the gradients down to a norm; gives the norm they had. 0 is no limit."""
    accelerator.unscale_gradients(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    return float(norm)


def zero_gradient_share(pixels: Tensor) -> float:
    """Share of images (N, 3, H, W) to which no gradient came: their reward is saturated."""
    if pixels.grad is None:
        return 1.0
    return float((pixels.grad.flatten(1).abs().amax(1) == 0).float().mean())
