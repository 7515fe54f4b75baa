"""Rankings of one prompt's pictures, and the comparisons that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RankedGroup:
    """Pictures of one prompt and people's (or an oracle's) places for them.

    pictures: (K, S, S, 3) uint8, already resized to the model's side; places: K integers, 1 is
    best, equal where nobody prefers either.
    """

    prompt: str
    pictures: np.ndarray
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.pictures.ndim != 4 or len(self.pictures) != len(self.places):
            shape = self.pictures.shape
            raise ValueError(f"{len(self.places)} places for pictures of shape {shape} ({self.prompt!r})")


def pairs_from_ranking(places: Sequence[int]) -> Tensor:
    """All untied comparisons: (M, 2) int64 rows (better, worse) of indices into ``places``."""
    place = torch.as_tensor(list(places))
    return (place[:, None] < place[None, :]).nonzero()


def pairwise_accuracy(rewards: Tensor, places: Sequence[int]) -> tuple[int, int]:
    """(comparisons that the rewards get right, untied comparisons); an equal reward counts as wrong."""
    better, worse = pairs_from_ranking(places).unbind(1)
    return int((rewards[better] > rewards[worse]).sum()), len(better)
