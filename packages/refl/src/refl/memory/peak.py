"""The measured peak of GPU memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


class PeakMemory:
    """The peak of GPU memory since torch's statistics were reset, with all memory of CUDA graphs."""

    def __init__(self) -> None:
        self._reserved, self._unused = -1, 0

    def bytes(self) -> int:
        """Return the peak. The memory of a graph counts as a whole, because nothing else can use it."""
        if torch.cuda.get_allocator_backend() != "native":  # others have no pools of graphs
            return torch.cuda.max_memory_allocated()
        reserved = torch.cuda.memory_reserved()
        if reserved != self._reserved:  # a snapshot at every step would take time
            self._reserved, self._unused = reserved, unused_by_graphs(torch.cuda.memory_snapshot())
        return torch.cuda.max_memory_allocated() + self._unused


def unused_by_graphs(segments: Iterable[Mapping[str, Any]]) -> int:
    """Return the bytes that belong to CUDA graphs and hold no tensor.

    Args:
        segments: a snapshot of torch's allocator.
    """
    of_graphs = [segment for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0)]
    return sum(segment["total_size"] - segment["allocated_size"] for segment in of_graphs)
