"""Batches that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import InputError

T = TypeVar("T")


def checked_batch_size(batch_size: int | None, device: torch.device) -> int:
    """Return the batch size; the default is 8 on a CPU, 64 elsewhere.

    Raises:
        InputError: not a whole number of at least 1.
    """
    size = (8 if device.type == "cpu" else 64) if batch_size is None else batch_size
    if not isinstance(size, Integral) or size < 1:
        raise InputError(f"Cannot use batch_size={batch_size!r}: it must be a whole number of at least 1.")
    return int(size)


def in_batches(
    compute: Callable[[range], T], count: int, size: int, make_room: Callable[[], None] | None = None
) -> Iterator[T]:
    """Yield ``compute(range(start, stop))`` for each batch of ``count`` items.

    The batch size is halved when a batch does not fit in memory.

    Args:
        compute: function of the indices of a batch.
        count: number of items.
        size: items in a batch.
        make_room: called before a smaller batch is tried, to release memory.
    """
    start = 0
    while start < count:
        try:
            result = compute(range(start, min(start + size, count)))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = min(size, count - start) // 2 or 1
            error.__traceback__ = None  # its frames hold the tensors of the failed batch
            if make_room is not None:
                make_room()
            continue
        yield result
        start += size


def collected(parts: Iterable[Tensor | None], most: int) -> Tensor | None:
    """Return tensors of the CPU as one, (N, ...), or None without tensors.

    Each is copied when it arrives, so that page-locked memory can be used again and all of them are in memory
    once.

    Args:
        parts: tensors (B, ...) of one shape apart from B; None counts as no rows.
        most: largest number N of all rows.
    """
    result: Tensor | None = None
    count = 0
    for part in parts:
        if part is None:
            continue
        if result is None:
            result = torch.empty(most, *part.shape[1:], dtype=part.dtype)
        result[count : count + len(part)] = part
        count += len(part)
    return result if result is None or count == most else result[:count].clone()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a smaller batch might succeed."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # On a CPU and on mps torch raises a plain RuntimeError; the last message is oneDNN's.
    signs = ("allocate memory", "out of memory", "could not create a primitive")
    return any(sign in str(error) for sign in signs)
