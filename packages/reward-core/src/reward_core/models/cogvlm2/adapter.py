"""CogVLM2's adapter: from patch tokens of the vision tower to image tokens of the language model.

Shapes: B images, G patches along a side, M image tokens (G G / 4), D width of the vision tower, E width of
the language model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CogVlm2Config


class Adapter(nn.Module):
    """Convolution over squares of 2 x 2 patches, a linear layer and a gated MLP."""

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        self.grid = config.patches
        width = config.width
        self.shrink = nn.Conv2d(config.vision_width, config.vision_width, 2, stride=2)
        self.project = nn.Linear(config.vision_width, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=config.adapter_layer_norm_eps)
        self.gate = nn.Linear(width, config.mlp, bias=False)
        self.up = nn.Linear(width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, width, bias=False)
        self.begin_of_image = nn.Parameter(torch.zeros(1, 1, width))
        self.end_of_image = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, patches: Tensor) -> Tensor:
        """Return begin of image, image tokens and end of image (B, M + 2, E) of patches (B, G G, D)."""
        x = self.merge(patches).flatten(2).transpose(1, 2)  # (B, M, D), row by row
        x = F.gelu(self.norm(self.project(x)))  # (B, M, E)
        x = self.down(F.silu(self.gate(x)) * self.up(x))  # (B, M, E)
        begin, end = (token.expand(len(x), -1, -1) for token in (self.begin_of_image, self.end_of_image))
        return torch.cat([begin, x, end], dim=1)

    def merge(self, patches: Tensor) -> Tensor:
        """Return one vector for each square of 2 x 2 patches, (B, D, G / 2, G / 2)."""
        grid = patches.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, D, G, G)
        return self.shrink(grid)
