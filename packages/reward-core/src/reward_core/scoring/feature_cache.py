"""The image features of a pipeline's recent images, on the model's device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import ImageError
from .lru_cache import LRUCache

K = TypeVar("K", bound=Hashable)


class FeatureCache(LRUCache[K, Tensor | ImageError | None]):
    """A cache of image features (...), of errors of images, or of None for an image that nothing will use.

    Features stay in the tensor of the batch that they were computed in, because a copy of each image would
    launch as many small kernels on a GPU. When less than half of a tensor is used, its used rows are copied
    into a new one. So the tensors hold at most twice the features that are kept.
    """

    def add(self, keys: Sequence[K], features: Tensor) -> None:
        """Keep features (B, ...) of B images. The tensor must not be written to anymore."""
        for key, row in zip(keys, features.unbind(), strict=True):
            self[key] = row

    def stacked(self, keys: Sequence[K]) -> Tensor | None:
        """Return the features (B, ...) of B images that have no error; None without images."""
        rows = [row for row in map(self.__getitem__, keys) if isinstance(row, Tensor)]
        return torch.stack(rows) if rows else None

    def used(self, keys: Sequence[K]) -> None:
        super().used(keys)
        by_tensor: dict[int, dict[K, Tensor]] = {}
        for key, row in self.values.items():
            if isinstance(row, Tensor):
                by_tensor.setdefault(row.untyped_storage().data_ptr(), {})[key] = row
        for rows in by_tensor.values():
            first = next(iter(rows.values()))
            if 2 * len(rows) * first.nbytes < first.untyped_storage().nbytes():
                self.add(list(rows), torch.stack(list(rows.values())))
