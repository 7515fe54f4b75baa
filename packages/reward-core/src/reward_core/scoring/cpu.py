"""Number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..runs.cpus import usable_cpus


@contextmanager
def sensible_threads() -> Iterator[None]:
    """Limit torch to one thread for each usable CPU inside the block.

    torch counts the cores of the machine. In a container limited to 2 of 64 cores, 64 threads would mostly
    wait for each other. A smaller number set by the user stays.
    """
    original = torch.get_num_threads()
    threads = min(original, usable_cpus())
    if threads == original:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(original)
