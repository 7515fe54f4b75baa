"""Which images are remembered from batch to batch.

What is remembered depends on the rows alone, never on time, so that the same rows are always computed in the
same company and their scores have the same last bits, also when a run was interrupted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """The values of the keys used last; room for ``size`` of them, and for all of the batch at hand."""

    def __init__(self, size: int):
        self.size = size
        self.values: OrderedDict[K, V] = OrderedDict()

    def absent(self, keys: Sequence[K]) -> list[K]:
        """Those of a batch's keys that have no value yet, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self.values]

    def __setitem__(self, key: K, value: V) -> None:
        self.values[key] = value

    def __getitem__(self, key: K) -> V:
        return self.values[key]

    def used(self, keys: Sequence[K]) -> None:
        """A batch is done: its keys are the latest now, and what is beyond the room is forgotten."""
        for key in keys:
            self.values.move_to_end(key)
        while len(self.values) > self.size:
            self.values.popitem(last=False)
