"""Scoring different images in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor


def in_threads(
    work: Callable[[int], Tensor], found: dict[str, Any], threads: int = 2, calls: int = 4
) -> None:
    """Score other images in each of several threads at once; count errors and wrong results.

    Args:
        work: function of a thread's number that returns the rewards of its images.
        found: gets the numbers of calls and of wrong results.
        threads: number of threads.
        calls: number of calls of each thread.
    """
    expected = [work(number) for number in range(threads)]
    apart = (expected[1] - expected[0]).abs().max() / expected[0].std()
    wrong: list[str] = []

    def compare(number: int) -> None:
        own = expected[number]
        try:
            for _ in range(calls):
                difference = (work(number) - own).abs().max().item() / own.std().item()
                if not difference < 0.02:
                    wrong.append(f"rewards differ by {difference:.3f} of their standard deviation")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {str(error)[:120]}")

    others = [threading.Thread(target=compare, args=(number,)) for number in range(threads)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    found |= {"calls": threads * calls, "wrong": len(wrong), "first": wrong[0] if wrong else ""}
    found["difference between threads' images, over std"] = round(apart.item(), 3)
