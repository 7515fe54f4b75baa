"""A limit on the pixels that the threads of this process decode at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Protocol

from ..files.limits import MAX_PIXELS_IN_FLIGHT


class PixelBudget:
    """A number of pixels that threads share, first come, first served.

    Args:
        pixels: largest number of pixels held at once. A larger image waits until no other is held.
    """

    def __init__(self, pixels: int):
        self.pixels, self.free = pixels, pixels
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Wait until the pixels are free and hold them in the block. Must not be nested."""
        pixels = min(max(pixels, 1), self.pixels)
        self._take(pixels)
        try:
            yield
        finally:
            self._give_back(pixels)

    def _take(self, pixels: int) -> None:
        with self._lock:
            if not self._waiting and pixels <= self.free:
                self.free -= pixels
                return
            turn = threading.Event()
            self._waiting.append((pixels, turn))
        try:
            turn.wait()
        except BaseException:  # interrupted
            with self._lock:
                if turn.is_set():
                    self.free += pixels
                else:
                    self._waiting.remove((pixels, turn))
                self._wake()
            raise

    def _give_back(self, pixels: int) -> None:
        with self._lock:
            self.free += pixels
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            pixels, turn = self._waiting.popleft()
            self.free -= pixels
            turn.set()


class Budget(Protocol):
    """A limit on the pixels that are decoded at the same time."""

    def held(self, pixels: int) -> AbstractContextManager[None]:
        """Wait until the pixels are free and hold them in the block. Must not be nested."""
        ...


_shared: list[Budget] = []


def share_pixel_budget(budget: Budget) -> None:
    """Make this process use a budget that it shares with others. Call it before the first image."""
    _shared[:] = [budget]


@cache
def pixel_budget() -> Budget:
    """Return the budget of this process, or the one that it shares with other processes."""
    return _shared[0] if _shared else PixelBudget(MAX_PIXELS_IN_FLIGHT.value)
