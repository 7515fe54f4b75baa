"""Attention for training under autocast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..network.attention import MultiHeadAttention


class Float32Attention(MultiHeadAttention):
    """Attention that stays in float32 where autocast on a CPU asks for 16 bits and gradients are computed.

    torch's CPU kernel takes 4 times as long backward in bfloat16 as in float32.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if not (query.requires_grad and torch.is_autocast_enabled("cpu")):
            return super().forward(query, key, value, mask)
        with torch.autocast("cpu", enabled=False):
            return super().forward(query.float(), key.float(), value.float(), mask)


def use_float32_attention(model: nn.Module) -> None:
    """Use `Float32Attention` throughout a model, in place, before training it under autocast.

    Nothing changes without autocast, on a GPU, or where no gradients are computed.
    """
    for module in model.modules():
        if type(module) is MultiHeadAttention:
            module.__class__ = Float32Attention
