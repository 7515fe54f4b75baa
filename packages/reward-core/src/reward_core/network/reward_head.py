"""The reward head: linear layers from a feature (B, D) to a raw reward (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class RewardHead(nn.Module):
    """Linear layers with dropout, computed in float32.

    Dropout layers and activations are part of the numbering: with the defaults the weights are
    ``layers.0, 2, 4, 6, 7``, as in the published checkpoint of ImageReward.

    Args:
        widths: widths of the feature, the hidden layers and the reward, such as (768, 1024, 128, 64, 16, 1).
        dropout: dropout probability after each of the first layers.
        activation: "gelu" for an exact GELU between the layers, "" for none.
    """

    def __init__(
        self, widths: Sequence[int], dropout: Sequence[float] = (0.2, 0.2, 0.1), activation: str = ""
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for i, (in_width, out_width) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(in_width, out_width))
            if activation and i < len(widths) - 2:
                layers.append(nn.GELU())
            if i < len(dropout):
                layers.append(nn.Dropout(dropout[i]))
        self.layers = nn.Sequential(*layers)

    @property
    def is_affine(self) -> bool:
        """Whether the head is one affine map, apart from dropout in training."""
        return not any(isinstance(layer, nn.GELU) for layer in self.layers)

    def forward(self, feature: Tensor) -> Tensor:
        # No autocast: 16 bits would give equal rewards to similar images.
        with torch.autocast(feature.device.type, enabled=False):
            return self.layers(feature.float()).squeeze(-1)  # (B,)
