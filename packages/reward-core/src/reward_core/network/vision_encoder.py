"""BLIP's image encoder: a pre-norm ViT whose final norm covers all tokens.

Module names are the checkpoint's key names, so weights load strictly and without a map.
Letters in shape comments: B batch, S image side, N tokens (patches + 1), D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend, project, run_block


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the image encoder; the defaults are ViT-L/16 at 224 px (ImageReward-v1.0).

    ``drop_path`` is the stochastic depth of the last block in training (earlier blocks get a
    linearly smaller share); it has no effect in evaluation. ``timm``: see network/timm_vision.py.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    drop_path: float = 0.1
    timm: str = ""

    @property
    def tokens(self) -> int:
        """Patches plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class VisionEncoder(nn.Module):
    """Normalised pixels (B, 3, S, S) -> image tokens (B, N, D); token 0 is the class token.

    Pixels of any floating type are brought to the weights' own. With ``gradient_checkpointing`` the backward
    pass
    computes the blocks' insides anew instead of keeping them (gradient checkpointing).
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
        return self.after(self.before(pixels, 0), 0)

    def before(self, pixels: Tensor, block: int) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> the tokens (B, N, D) that enter block number ``block``."""
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(f"pixels of shape (B, 3, {size}, {size}) expected, got {tuple(pixels.shape)}")
        pixels = pixels.to(self.patch_embed.proj.weight.dtype)
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)  # (B, N-1, D)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for earlier in self.blocks[:block]:
            x = earlier(x)  # (B, N, D)
        return x

    def after(self, x: Tensor, block: int) -> Tensor:
        """What ``before`` gave (B, N, D) -> image tokens (B, N, D)."""
        for later in self.blocks[block:]:
            x = run_block(later, x, gradient_checkpointing=self.gradient_checkpointing)
        return self.norm(x)


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config.width, int(config.width * config.mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._skip_some(self.attn(self.norm1(x)))
        return x + self._skip_some(self.mlp(self.norm2(x)))

    def _skip_some(self, branch: Tensor) -> Tensor:
        """Stochastic depth (arXiv 1603.09382): in training, drop the branch for a share of the batch."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep).div_(keep)


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = project(self.qkv, x).chunk(3, dim=-1)
        return project(self.proj, attend(q, k, v, self.heads))


class VisionMLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return project(self.fc2, F.gelu(project(self.fc1, x)))
