"""A cache of the most recently used image features.

Its contents depend only on the order of the rows, never on time. So the same images are always encoded in the
same batches, and scores round the same way even if a run was interrupted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A mapping that keeps the ``size`` most recently used keys, and all keys of the current batch."""

    def __init__(self, size: int):
        self.size = size
        self.values: OrderedDict[K, V] = OrderedDict()

    def absent(self, keys: Sequence[K]) -> list[K]:
        """Return the keys without a value, without duplicates, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self.values]

    def __setitem__(self, key: K, value: V) -> None:
        self.values[key] = value

    def __getitem__(self, key: K) -> V:
        return self.values[key]

    def used(self, keys: Sequence[K]) -> None:
        """Mark a batch's keys as used and drop the least recently used keys beyond ``size``."""
        for key in keys:
            self.values.move_to_end(key)
        while len(self.values) > self.size:
            self.values.popitem(last=False)
