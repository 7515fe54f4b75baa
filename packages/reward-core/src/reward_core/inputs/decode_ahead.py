"""Images decoded ahead by threads, so that the model does not wait for files.

Threads are as fast as processes, because Pillow releases the GIL while it decodes and resizes
(docs/performance.md), and they need no copies between processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from PIL import Image

from ..runs.cpus import usable_cpus

T = TypeVar("T")

MOST_THREADS = 32


class DecodedAhead(Generic[T]):
    """A sequence of ``open_one(items[i])`` in which threads open the next items ahead.

    An item that is read twice is opened twice. An error of ``open_one`` is raised when its item is read.

    Args:
        open_one: function that opens an item; called by several threads at once.
        items: items in the order in which they will be read.
        ahead: largest number of items that are opened and not read yet.
        threads: number of threads (default: the number of CPUs minus one, which is left to the model).
    """

    def __init__(
        self, open_one: Callable[..., T], items: Sequence, ahead: int, threads: int | None = None
    ) -> None:
        self.open_one, self.items, self.ahead = open_one, items, ahead
        self.threads = threads or max(1, min(MOST_THREADS, usable_cpus() - 1))
        self.waiting: dict[int, Future[T]] = {}
        self.begun = 0  # items before this index were submitted to the threads
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> DecodedAhead[T]:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> T:
        self._begin(i)
        future = self.waiting.pop(i, None)
        return self.open_one(self.items[i]) if future is None else future.result()

    def _begin(self, i: int) -> None:
        stop = min(len(self.items), i + self.ahead)
        if stop - i > 1 or self.waiting:  # a single image is opened by the calling thread
            for j in range(max(i, self.begun), stop):
                if _may_be_shared(self.items[j]):
                    self.pool = self.pool or ThreadPoolExecutor(self.threads, "reward-core-decode")
                    self.waiting[j] = self.pool.submit(self.open_one, self.items[j])
        self.begun = max(self.begun, stop)


def _may_be_shared(item: object) -> bool:
    """Return whether threads may open the item: a path or a decoded image.

    A PIL image that is not loaded yet or has a palette changes while it is read, and a caller may pass the
    same image twice.
    """
    if isinstance(item, Image.Image):
        return getattr(item, "fp", None) is None and item.mode not in ("P", "PA")
    return isinstance(item, (str, os.PathLike))
