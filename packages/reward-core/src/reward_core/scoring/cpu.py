"""How many threads compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..runs.cpus import usable_cpus


@contextmanager
def sensible_threads() -> Iterator[None]:
    """Compute with no more threads than there are processors for them; the former number comes back.

    torch counts the machine's cores. In a container that may use two of 64, as many threads would spend
    their time waiting for each other. A smaller number, set by the user, stays.
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
