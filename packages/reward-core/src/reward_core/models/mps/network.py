"""The cross model of MPS (arXiv 2405.14705): image tokens that read the tokens of a prompt.

Every layer attends to the prompt and then to the image. In both, attention and a gated MLP read the same
normalized input and are added (a parallel block), and all heads share one head of keys and values.

Shapes: B pairs, N image tokens, L text tokens, D width, H heads, W width of a head, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...network.layers import project
from .config import MpsConfig


class CrossModel(nn.Module):
    """From image tokens and text tokens to the feature (B, D) of the image for the prompt."""

    def __init__(self, config: MpsConfig):
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(config) for _ in range(config.cross_depth))

    def forward(self, image_tokens: Tensor, text_tokens: Tensor, is_open: Tensor) -> Tensor:
        """Return the feature of the class token.

        Args:
            image_tokens: (B, N, D), the class token first.
            text_tokens: (B, L, D).
            is_open: (B, L) boolean, True for the text tokens that are read.
        """
        x, last = image_tokens, len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            # Nothing reads the last outputs of the patches.
            x = layer(x, text_tokens, is_open, queries=1 if i == last else None)
        return x[:, 0]


class CrossLayer(nn.Module):
    """Attention to the prompt, then attention to the image."""

    def __init__(self, config: MpsConfig):
        super().__init__()
        self.text = ParallelBlock(config)
        self.image = ParallelBlock(config)
        self.rotary = Rotary(config.cross_head_width)

    def forward(self, x: Tensor, text_tokens: Tensor, is_open: Tensor, queries: int | None) -> Tensor:
        """Return tokens (B, Q, D) of image tokens (B, N, D); Q is N unless ``queries`` is given."""
        normed = self.text.norm(x)
        keys, values = self.text.project_kv(text_tokens)
        x = x + self.text(normed, self.text.project_q(normed), keys, values, is_open)

        normed = self.image.norm(x)
        keys, values = self.image.project_kv(normed)
        normed = normed[:, :queries]
        query = self.rotary(self.image.project_q(normed))
        return x[:, :queries] + self.image(normed, query, self.rotary(keys), values, None)


class ParallelBlock(nn.Module):
    """Attention with one head of keys and values, and a SwiGLU MLP beside it."""

    def __init__(self, config: MpsConfig):
        super().__init__()
        width, head, heads = config.proj_dim, config.cross_head_width, config.cross_heads
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head, bias=False)
        self.to_kv = nn.Linear(width, 2 * head, bias=False)
        self.to_out = nn.Linear(heads * head, width, bias=False)
        self.ff_in = nn.Linear(width, 2 * config.cross_ff, bias=False)
        self.ff_out = nn.Linear(config.cross_ff, width, bias=False)

    def project_q(self, x: Tensor) -> Tensor:
        """Return queries (B, Q, H, W) of tokens (B, Q, D)."""
        return project(self.to_q, x).unflatten(-1, (self.heads, -1))

    def project_kv(self, x: Tensor) -> Sequence[Tensor]:
        """Return keys and values, (B, K, 1, W) each, of tokens (B, K, D)."""
        return project(self.to_kv, x).unsqueeze(-2).chunk(2, dim=-1)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return the sum (B, Q, D) of the attended values and of the MLP.

        Args:
            x: (B, Q, D), normalized.
            query: (B, Q, H, W).
            key, value: (B, K, 1, W).
            mask: (B, K) boolean, True for keys to attend to.
        """
        # With one head of keys, the heads are further queries.
        flat = query.flatten(1, 2)[:, None]  # (B, 1, Q H, W)
        mask = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(flat, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask)
        attended = out[:, 0].unflatten(1, (-1, self.heads)).flatten(2)  # (B, Q, H W)
        hidden, gate = project(self.ff_in, x).chunk(2, dim=-1)
        return project(self.to_out, attended) + project(self.ff_out, F.silu(gate) * hidden)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), computed in float32.

    Attributes:
        inv_freq: (W / 2,) frequencies, part of the checkpoint.
    """

    inv_freq: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, width, 2).float() / width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, H, W), each rotated by its position 0 to N - 1."""
        positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        angles = torch.outer(positions, self.inv_freq.float())[:, None]  # (N, 1, W / 2)
        cos, sin = angles.cos(), angles.sin()
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
