"""SigLIP's vision tower (arXiv 2303.15343): a pre-norm ViT without class token, pooled by attention.

Module names are the keys of the published checkpoint, except for the attention of the pooling head.

Shapes: B batch, S image side, N image tokens (patches), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...network.attention import MultiHeadAttention
from ...network.layers import check_pixels, project
from .config import SiglipConfig


class SiglipVision(nn.Module):
    """Vision tower: from normalized pixels (B, 3, S, S) to pooled features (B, D)."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.encoder: Any = nn.Module()
        self.encoder.layers = nn.ModuleList(SiglipBlock(config) for _ in range(config.vision_depth))
        self.post_layernorm = nn.LayerNorm(config.vision_width, eps=config.layer_norm_eps)
        self.head = AttentionPooling(config)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embeddings(pixels)  # (B, N, D)
        for block in self.encoder.layers:
            x = block(x)
        return self.head(self.post_layernorm(x))


class PatchEmbeddings(nn.Module):
    """Sum of patch and position embeddings."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.image_size = config.image_size
        width, patch = config.vision_width, config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding: Any = nn.Module()
        self.position_embedding.weight = nn.Parameter(torch.zeros(config.tokens, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return image tokens (B, N, D) of pixels (B, 3, S, S).

        Raises:
            ValueError: wrong shape of the pixels.
        """
        check_pixels(pixels, self.image_size)
        conv = self.patch_embedding
        patches = conv(pixels.to(conv.weight.dtype)).flatten(2).transpose(1, 2)
        return patches + self.position_embedding.weight


class SiglipBlock(nn.Module):
    """Self-attention and MLP, each after a LayerNorm and with a residual connection."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.vision_width, eps=config.layer_norm_eps)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.vision_width, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.layer_norm1(x)
        x = x + self.self_attn(normed, normed)
        return x + self.mlp(self.layer_norm2(x))


class AttentionPooling(nn.Module):
    """A learned query that attends to all image tokens, followed by an MLP."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.vision_width))
        self.attention = SiglipAttention(config)
        self.layernorm = nn.LayerNorm(config.vision_width, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return pooled features (B, D) of image tokens (B, N, D)."""
        pooled = self.attention(self.probe.expand(len(x), -1, -1), x)  # (B, 1, D)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class SiglipAttention(nn.Module):
    """Attention of queries (B, Q, D) to image tokens (B, N, D)."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        width = config.vision_width
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.attend = MultiHeadAttention(config.vision_heads)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        q, k, v = project(self.q_proj, queries), project(self.k_proj, x), project(self.v_proj, x)
        return project(self.out_proj, self.attend(q, k, v))


class SiglipMLP(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.vision_width, config.vision_mlp)
        self.fc2 = nn.Linear(config.vision_mlp, config.vision_width)

    def forward(self, x: Tensor) -> Tensor:
        return project(self.fc2, F.gelu(project(self.fc1, x), approximate="tanh"))
