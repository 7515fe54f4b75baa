"""Heads of HPSv3 and HPSv3++: from the hidden state at the reward token to a score.

They compute in float32. Letters in shape comments: B pairs, E width of the hidden states, C width of the
condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _rank_head(width: int) -> nn.Sequential:
    """Return the layers from hidden states (B, E) to mu and the logarithm of sigma (B, 2)."""
    return nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )


class RankHead(nn.Module):
    """The head of HPSv3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rm_head = _rank_head(width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return mu and the logarithm of sigma (B, 2) of hidden states (B, E)."""
        output: Tensor = self.rm_head(hidden)
        return output


class CapabilityEncoder(nn.Module):
    """An estimate, from the image and the prompt, of how capable the generator is.

    The authors pool it with ``pool_attn`` over a group of images; their published batches pool it over the
    whole batch, so that a score depends on its neighbors. The group of an image is the image itself here:
    the weight of a softmax over one element is 1, and ``pool_attn`` has no effect.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, condition)
        self.pool_attn = nn.Linear(condition, 1)
        self.out_proj = nn.Linear(condition, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return capabilities (B,) in [0, 1] of hidden states (B, E)."""
        return self.out_proj(self.proj(hidden))[:, 0].sigmoid()


class ConditionedHead(nn.Module):
    """The head of HPSv3++: scales and shifts the hidden state by a condition, then as in HPSv3.

    The condition is the capability and the progress of the reinforcement learning that the images are from.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.rm_head = _rank_head(width)
        self.cap_encoder = CapabilityEncoder(width, condition)
        self.cond_encoder = nn.Sequential(nn.Linear(2, condition), nn.GELU(), nn.Linear(condition, condition))
        self.film_gen = nn.Sequential(nn.Linear(condition, width), nn.ReLU(), nn.Linear(width, 2 * width))

    def forward(self, hidden: Tensor, iter_step: Tensor) -> Tensor:
        """Return mu, the logarithm of sigma and the capability (B, 3).

        As in the authors' program, no gradient flows through the capability.

        Args:
            hidden: (B, E).
            iter_step: (B,) in [0, 1].
        """
        capability = self.cap_encoder(hidden.detach())
        condition = self.cond_encoder(torch.stack([capability, iter_step], dim=1))  # (B, C)
        gamma, beta = self.film_gen(condition).chunk(2, dim=1)  # (B, E) each
        return torch.cat([self.rm_head(hidden * (1 + gamma) + beta), capability[:, None]], dim=1)
