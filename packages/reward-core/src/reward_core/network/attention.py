"""Multi-head attention, for self-attention and cross-attention.

Shapes: B batch, Q queries, K keys, H heads, D width of all heads together.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Attention softmax(q k^T / sqrt(D/H) + mask) v of each head, without projections.

    Args:
        heads: number of heads H, a divisor of D.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.dropout = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attended values (B, Q, D) with concatenated heads.

        Args:
            query: (B, Q, D).
            key, value: (B, K, D).
            mask: boolean, broadcastable to (B, H, Q, K); True for keys to attend to.
        """
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)  # (B, H, Q, D/H)
        return x.transpose(1, 2).flatten(2)  # (B, Q, D)
