"""A vision encoder in two parts: frozen blocks, whose output can be cached, and trained blocks.

Shapes: B batch, S image side, N image tokens, E image width.
"""

from __future__ import annotations

from torch import Tensor

from ..network.layers import run_block
from ..network.timm_vision import TimmVision
from ..network.vision_encoder import VisionEncoder


def run_frozen_blocks(encoder: VisionEncoder | TimmVision, pixels: Tensor, count: int) -> Tensor:
    """Return the tokens (B, N, E) after the first ``count`` blocks for normalized pixels (B, 3, S, S)."""
    x = encoder.embed(pixels)  # (B, N, E)
    for block in list(encoder.blocks)[:count]:
        x = block(x)
    return x


def run_trained_blocks(encoder: VisionEncoder | TimmVision, x: Tensor, count: int) -> Tensor:
    """Return the image tokens (B, N, E) for the tokens after the first ``count`` blocks, (B, N, E)."""
    for block in list(encoder.blocks)[count:]:
        x = run_block(block, x, gradient_checkpointing=encoder.gradient_checkpointing)
    return encoder.norm(x)
