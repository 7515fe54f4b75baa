"""The number of threads that compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..runs.cpus import usable_cpus


@contextmanager
def sensible_threads() -> Iterator[None]:
    """Compute with at most one thread for each usable processor; restore the number of threads afterwards.

    torch counts the cores of the machine. In a container that may use two of 64, 64 threads would wait for
    each other most of the time. A smaller number, set by the user, stays.
    """
    before = torch.get_num_threads()
    wanted = min(before, usable_cpus())
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
