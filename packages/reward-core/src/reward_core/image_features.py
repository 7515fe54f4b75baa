"""Pictures once encoded, kept for as many prompts as one likes.

Letters in shape comments: B pictures, N image tokens, E image width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What a model has seen in B pictures; ``score_matrix`` takes it in place of the pictures.

    data: (B, N, E) image tokens of a reward model, (B, P) unit vectors of a two-tower baseline.
    model: which model made it, by kind and configuration; features of another are refused.
    """

    data: Tensor
    model: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> ImageFeatures:
        """Some of the pictures, by slice or by a list of indices."""
        if isinstance(index, range):
            index = list(index)
        return ImageFeatures(self.data[index], self.model)

    def to(self, *args, **kwargs) -> ImageFeatures:
        """On another device or in another precision, as ``Tensor.to``."""
        return ImageFeatures(self.data.to(*args, **kwargs), self.model)

    @classmethod
    def cat(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Several lots of pictures as one. Raises InputError if they are of different models."""
        models = {part.model for part in parts}
        if len(models) != 1:
            raise InputError(f"features of one model were expected, got {sorted(models)}")
        return cls(torch.cat([part.data for part in parts]), models.pop())
