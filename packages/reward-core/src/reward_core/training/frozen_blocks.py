"""A vision encoder in two parts: frozen blocks, whose output can be cached, and trained blocks.

Both functions take a `network.vision_encoder.VisionEncoder` or a `network.timm_vision.TimmVision`.

Shapes: B batch, S image side, N image tokens, E image width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..network.layers import run_block


def run_frozen_blocks(encoder: nn.Module, pixels: Tensor, count: int) -> Tensor:
    """Return the tokens (B, N, E) after the first ``count`` blocks for normalized pixels (B, 3, S, S)."""
    x = encoder.embed(pixels)  # (B, N, E)
    for block in encoder.blocks[:count]:
        x = block(x)
    return x


def run_trained_blocks(encoder: nn.Module, x: Tensor, count: int) -> Tensor:
    """Return the image tokens (B, N, E) for the tokens after the first ``count`` blocks, (B, N, E)."""
    for block in encoder.blocks[count:]:
        x = run_block(block, x, gradient_checkpointing=encoder.gradient_checkpointing)
    return encoder.norm(x)
