"""The one attention of this package, used by both encoders and by cross-attention; projections; recomputing.

Letters in shape comments: B batch, Q queries, K keys, H heads, D width of the queries' side.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import onednn_linear


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(x)`` in the weights' own precision, which may be lower than that of ``x``."""
    return onednn_linear.linear(layer, x.to(layer.weight.dtype))


def run_block(block: nn.Module, *inputs: Any, gradient_checkpointing: bool = False) -> Tensor:
    """``block(*inputs)``; with ``gradient_checkpointing``, what it holds for the backward pass is computed
    anew there."""
    if not (gradient_checkpointing and torch.is_grad_enabled()):
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False)


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Multi-head attention over projected inputs: softmax(q k^T / sqrt(D/H) + mask) v.

    Args:
        query: (B, Q, D).
        key, value: (B, K, D).
        heads: H, a divisor of D.
        mask: boolean, broadcastable to (B, H, Q, K); True where a key may be attended to.
        dropout: probability of dropping an attention weight (pass 0 in evaluation).

    Returns:
        (B, Q, D), heads concatenated, before any output projection.
    """
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, Q, D/H)
    k = key.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, K, D/H)
    v = value.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, K, D/H)
    # Backwards, torch's CPU kernel takes 4 times as long in bfloat16 as in float32.
    slow = q.device.type == "cpu" and q.requires_grad and torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False) if slow else nullcontext():
        q, k, v = (t.float() if slow else t for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)  # (B, H, Q, D/H)
    return out.transpose(1, 2).flatten(2)  # (B, Q, D)
