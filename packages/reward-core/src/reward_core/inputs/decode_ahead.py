"""Images opened by threads a little before a model asks for them, so that it does not wait for files.

Threads, not processes: Pillow lets go of Python's lock while it decodes and resizes, so two threads decode as
many images a second as two processes do (docs/performance.md), and nothing is copied between them.
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
    """``opened[i]`` is ``open_one(items[i])``; the items that follow are opened meanwhile, by threads.

    What is asked for again is opened again. An error of ``open_one`` is raised where its item is asked for.

    Args:
        open_one: gives what is wanted of an item; called by several threads at once.
        items: in the order in which they will be asked for.
        ahead: how many may wait, opened, at a time.
        threads: default: a thread for each processor but one, which is left to the model.
    """

    def __init__(
        self, open_one: Callable[..., T], items: Sequence, ahead: int, threads: int | None = None
    ) -> None:
        self.open_one, self.items, self.ahead = open_one, items, ahead
        self.threads = threads or max(1, min(MOST_THREADS, usable_cpus() - 1))
        self.waiting: dict[int, Future[T]] = {}
        self.begun = 0  # items before this one were handed to the threads
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
        if stop - i > 1 or self.waiting:  # a lone image is opened where it is asked for
            for j in range(max(i, self.begun), stop):
                if _may_be_shared(self.items[j]):
                    self.pool = self.pool or ThreadPoolExecutor(self.threads, "reward-core-decode")
                    self.waiting[j] = self.pool.submit(self.open_one, self.items[j])
        self.begun = max(self.begun, stop)


def _may_be_shared(item: object) -> bool:
    """Whether a thread may open it: a path, or an image that lies decoded in memory.

    A PIL image that still reads its file, and one with a palette, change while they are read; the caller may
    have given the same one twice.
    """
    if isinstance(item, Image.Image):
        return getattr(item, "fp", None) is None and item.mode not in ("P", "PA")
    return isinstance(item, (str, os.PathLike))
