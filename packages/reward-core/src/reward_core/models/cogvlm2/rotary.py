"""Rotary position embeddings (arXiv 2104.09864) of the language model, in the half-split form.

Shapes: T tokens, W width of a head.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Rotary: TypeAlias = tuple[Tensor, Tensor]  # cosines and sines, (T, W) each


def inverse_frequencies(head_width: int, theta: float, device: torch.device) -> Tensor:
    """Return the frequencies theta^(-2 i / W), (W / 2,) float32."""
    steps = torch.arange(0, head_width, 2, dtype=torch.float32, device=device)
    return 1.0 / theta ** (steps / head_width)


def rotary_table(positions: Tensor, head_width: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Return cosines and sines of the positions (T,).

    Frequencies, angles and results are rounded to ``dtype`` one after the other. In bfloat16 this gives the
    table of the published model, whose frequencies are stored in the dtype of the weights.
    """
    frequencies = inverse_frequencies(head_width, theta, positions.device).to(dtype)
    angles = positions.to(dtype)[:, None] * frequencies  # (T, W/2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Return queries or keys (..., T, W) rotated by the angles of their positions."""
    cosines, sines = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
