"""A limit on the pixels that the threads of this process decode at the same time."""

from __future__ import annotations

import threading
from collections import deque
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

    def take(self, pixels: int) -> int:
        """Wait until the pixels are free, and return how many to give back.

        A thread must give them back before it takes more.
        """
        pixels = min(max(pixels, 1), self.pixels)
        with self._lock:
            if not self._waiting and pixels <= self.free:
                self.free -= pixels
                return pixels
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
        return pixels

    def give_back(self, pixels: int) -> None:
        """Free the pixels that `take` returned."""
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

    def take(self, pixels: int) -> int:
        """Wait until the pixels are free, and return how many to give back."""
        ...

    def give_back(self, pixels: int) -> None:
        """Free the pixels that `take` returned."""
        ...


_shared: list[Budget] = []


def share_pixel_budget(budget: Budget) -> None:
    """Make this process use a budget that it shares with others. Call it before the first image."""
    _shared[:] = [budget]


@cache
def pixel_budget() -> Budget:
    """Return the budget of this process, or the one that it shares with other processes."""
    return _shared[0] if _shared else PixelBudget(MAX_PIXELS_IN_FLIGHT.value)
