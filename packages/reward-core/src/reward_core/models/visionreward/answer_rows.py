"""Answers and the image features of the alignment model in one tensor, as the scoring pipeline needs them.

Shapes: B images, Q questions, F rows of image features, E numbers in a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def joined(answers: Tensor, features: Tensor) -> Tensor:
    """Return answers (B, Q) in the first rows, and features (B, F, E) after them: (B, R + F, E)."""
    width = features.shape[-1]
    padded = F.pad(answers, (0, -answers.shape[1] % width)).unflatten(1, (-1, width))
    return torch.cat([padded.to(features.dtype), features], dim=1)


def split(rows: Tensor, questions: int) -> tuple[Tensor, Tensor]:
    """Return answers (B, Q) float32 and features (B, F, E) of what ``joined`` returned."""
    first = -(-questions // rows.shape[-1])
    return rows[:, :first].flatten(1)[:, :questions].float(), rows[:, first:]
