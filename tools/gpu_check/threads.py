"""Scoring by several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor


def in_threads(work: Callable[[], Tensor], found: dict[str, Any], threads: int = 2, calls: int = 4) -> None:
    """Call from other threads at once; count results that differ from this thread's, and errors."""
    expected = work()
    wrong: list[str] = []

    def compare() -> None:
        try:
            for _ in range(calls):
                difference = (work() - expected).abs().max().item() / expected.std().item()
                if not difference < 0.02:
                    wrong.append(f"rewards differ by {difference:.3f} of their standard deviation")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {str(error)[:120]}")

    others = [threading.Thread(target=compare) for _ in range(threads)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    found |= {"calls": threads * calls, "wrong": len(wrong), "first": wrong[0] if wrong else ""}
