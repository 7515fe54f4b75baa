"""Helpers of the encoders: 16-bit layers, gradient checkpointing, pixel checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer in the dtype of its weights, which may differ from ``x``."""
    return layer(x.to(layer.weight.dtype))


def run_block(block: nn.Module, *inputs: Any, gradient_checkpointing: bool = False) -> Tensor:
    """Return ``block(*inputs)``.

    With ``gradient_checkpointing`` only the inputs are saved for the backward pass, which runs the block
    again. This saves memory and takes more time.
    """
    if gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def check_pixels(pixels: Tensor, size: int) -> None:
    """Raise ValueError unless pixels are (B, 3, size, size)."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
        raise ValueError(
            f"Cannot encode pixels of shape {tuple(pixels.shape)}: expected (B, 3, {size}, {size}). "
            "Resize and normalize images with the model's transform."
        )
