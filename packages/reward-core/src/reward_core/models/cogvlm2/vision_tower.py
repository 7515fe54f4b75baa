"""CogVLM2's vision tower (EVA2-CLIP-E): a ViT whose norms are on the outputs of the branches.

Each layer adds norm(attention(x)) and then norm(mlp(x)); neither the first layer nor the last output has a
norm of its own.

Shapes: B images, S image side, N tokens (patches + 1), D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...network.attention import MultiHeadAttention
from ...network.layers import check_pixels, run_block
from .config import CogVlm2Config


class VisionTower(nn.Module):
    """Vision transformer: from normalized pixels (B, 3, S, S) to patch tokens (B, N - 1, D).

    Attributes:
        gradient_checkpointing: run the layers again in the backward pass instead of saving activations.
    """

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        self.image_size = config.image_size
        self.gradient_checkpointing = False
        width, patch = config.vision_width, config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, width))
        self.position_embedding = nn.Parameter(torch.zeros(config.patches**2 + 1, width))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.vision_depth))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels)  # (B, N, D)
        for layer in self.layers:
            x = run_block(layer, x, gradient_checkpointing=self.gradient_checkpointing)
        return x[:, 1:]

    def embed(self, pixels: Tensor) -> Tensor:
        """Return class and patch tokens (B, N, D) with positions for pixels (B, 3, S, S).

        Raises:
            ValueError: wrong shape of the pixels.
        """
        check_pixels(pixels, self.image_size)
        conv = self.patch_embedding
        patches = conv(pixels.to(conv.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N-1, D)
        return torch.cat([self.class_token.expand(len(patches), 1, -1), patches], 1) + self.position_embedding


class VisionLayer(nn.Module):
    """Self-attention and MLP, each with a LayerNorm on its output and a residual connection."""

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        width, eps = config.vision_width, config.vision_layer_norm_eps
        self.attention = VisionAttention(width, config.vision_heads)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = VisionMLP(width, config.vision_mlp)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_norm(self.attention(x))
        return x + self.mlp_norm(self.mlp(x))


class VisionAttention(nn.Module):
    """Self-attention over all tokens (B, N, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.attend = MultiHeadAttention(heads)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attend(*self.qkv(x).chunk(3, dim=-1)))


class VisionMLP(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
