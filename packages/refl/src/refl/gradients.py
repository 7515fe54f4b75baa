"""Averaging, clipping and measuring of gradients before an optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

BUCKET_BYTES = 256 * 2**20
T = TypeVar("T", bound=Tensor)


def average_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients by their mean over all ranks.

    This replaces DistributedDataParallel, which expects one forward pass per backward pass and gradients
    for all parameters; a rollout calls the denoiser many times and may leave parameters unused.

    Gradients are reduced in buckets, so that a second copy of all of them is never in memory.
    """
    if accelerator.num_processes == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for bucket in buckets(gradients, BUCKET_BYTES):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        torch.distributed.all_reduce(flat)
        flat /= accelerator.num_processes
        for gradient, mean in zip(bucket, flat.split([gradient.numel() for gradient in bucket])):
            gradient.copy_(mean.view_as(gradient))


def buckets(tensors: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield consecutive tensors of together at most so many bytes, or a single one that is larger."""
    bucket: list[T] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > most:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


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
