"""The reward head: linear layers from a feature (B, D) to a raw reward (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class RewardHead(nn.Module):
    """Linear layers with dropout and without activations, computed in float32.

    Dropout layers are part of the numbering: with the defaults the weights are ``layers.0, 2, 4, 6, 7``, as
    in the published checkpoint.

    Args:
        widths: widths of the feature, the hidden layers and the reward, such as (768, 1024, 128, 64, 16, 1).
        dropout: dropout probability after each of the first layers.
    """

    def __init__(self, widths: Sequence[int], dropout: Sequence[float] = (0.2, 0.2, 0.1)):
        super().__init__()
        layers: list[nn.Module] = []
        for i, (in_width, out_width) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(in_width, out_width))
            if i < len(dropout):
                layers.append(nn.Dropout(dropout[i]))
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        # No autocast: 16 bits would give equal rewards to similar images.
        with torch.autocast(feature.device.type, enabled=False):
            return self.layers(feature.float()).squeeze(-1)  # (B,)
