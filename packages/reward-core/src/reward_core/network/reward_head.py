"""The reward head: five linear layers without activations, feature (B, D) -> raw reward (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class RewardHead(nn.Module):
    """An MLP that is one affine map in evaluation; it always runs in float32.

    Args:
        widths: layer widths from feature to reward, e.g. (768, 1024, 128, 64, 16, 1).
        dropout: one probability for each of the first layers, e.g. (0.2, 0.2, 0.1).

    Dropout layers stand between the linear ones and shift their numbers: with the values above
    the weights are ``layers.0, 2, 4, 6, 7``, as in the published checkpoint.
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
        # A reward in half precision would tie images that differ: leave any autocast here.
        with torch.autocast(feature.device.type, enabled=False):
            return self.layers(feature.float()).squeeze(-1)
