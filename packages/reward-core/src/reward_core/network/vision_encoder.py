"""BLIP's image encoder: a pre-norm ViT whose final norm covers all tokens.

Module names are the keys of the published checkpoint, so weights load without a key map.

Shapes: B batch, S image side, N image tokens (patches + 1), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .encoder_sizes import VisionConfig
from .layers import check_pixels, project, run_block


class VisionEncoder(nn.Module):
    """Vision transformer: from pixels (B, 3, S, S) to image tokens (B, N, D).

    Pixels are normalized. The class token comes first.

    Attributes:
        gradient_checkpointing: run the blocks again in the backward pass instead of saving activations.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.patch_embed: Any = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            VisionBlock(config, config.drop_path * i / last) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels)  # (B, N, D)
        for block in self.blocks:
            x = run_block(block, x, gradient_checkpointing=self.gradient_checkpointing)  # (B, N, D)
        return self.norm(x)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return class and patch tokens (B, N, D) with positions for pixels (B, 3, S, S).

        Raises:
            ValueError: wrong shape of the pixels.
        """
        check_pixels(pixels, self.config.image_size)
        proj = self.patch_embed.proj
        patches = proj(pixels.to(proj.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N-1, D)
        cls = self.cls_token.expand(len(patches), -1, -1)  # (B, 1, D)
        return torch.cat([cls, patches], dim=1) + self.pos_embed  # (B, N, D)


class VisionBlock(nn.Module):
    """Self-attention and MLP, each after a LayerNorm and with a residual connection."""

    def __init__(self, config: VisionConfig, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config.width, int(config.width * config.mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop_path(self.attn(self.norm1(x)))
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _drop_path(self, branch: Tensor) -> Tensor:
        """Zero the branch of random samples in training (arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep).div_(keep)


class VisionAttention(nn.Module):
    """Self-attention over image tokens (B, N, D)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.attend = MultiHeadAttention(config.heads)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = project(self.qkv, x).chunk(3, dim=-1)  # (B, N, D) each
        return project(self.proj, self.attend(q, k, v))


class VisionMLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return project(self.fc2, F.gelu(project(self.fc1, x)))
