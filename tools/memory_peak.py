"""Peak memory of a call on a CPU, counted by torch's profiler, which sees every allocation of a tensor."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch


def peak_of(call: Callable[[], Any]) -> int:
    """Return the largest number of bytes that a call allocates and holds at once."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(accumulate(sizes), default=0)


def tensor_bytes() -> int:
    """Return the bytes of all tensors that Python holds; shared storage counts once."""
    gc.collect()
    # isinstance would import lazy modules of other libraries to find out their class.
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
