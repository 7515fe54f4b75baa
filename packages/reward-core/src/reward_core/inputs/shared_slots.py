"""Memory that processes share, in slots for one image each.

The memory is an anonymous file of Linux (memfd). It has no name, so nothing is left over when a process is
killed, and it does not use /dev/shm, which is small in containers.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

# Bytes of a slot, at least: an image of 724x724 pixels at 4 bytes.
SLOT_BYTES = 1 << 21
_HEADER_BYTES = 1 << 12  # before the slots; holds a number for each process
MOST_PROCESSES = _HEADER_BYTES // 8


def can_share_memory() -> bool:
    """Return whether this system has anonymous files."""
    return hasattr(os, "memfd_create")


class SharedSlots:
    """Slots in an anonymous file that is open in several processes.

    Args:
        descriptor: the file.
        count: number of slots.
        slot_bytes: bytes of a slot.

    Attributes:
        working_on: number of the slot that each process is filling; -1 for none. It shows which image a
            process was decoding when it ended unexpectedly.
    """

    def __init__(self, descriptor: int, count: int, slot_bytes: int):
        self.descriptor, self.count, self.slot_bytes = descriptor, count, slot_bytes
        self._memory = mmap.mmap(descriptor, _HEADER_BYTES + count * slot_bytes)
        self.working_on = np.frombuffer(self._memory, np.int64, MOST_PROCESSES)

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> SharedSlots:
        """Create the file. Pages take memory when they are first written."""
        descriptor = os.memfd_create("reward-core-images")
        try:
            os.truncate(descriptor, _HEADER_BYTES + count * slot_bytes)
            slots = cls(descriptor, count, slot_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        slots.working_on[:] = -1
        return slots

    def close(self) -> None:
        """Close the file. The memory is freed when the last array that uses it is gone."""
        os.close(self.descriptor)

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the first bytes of a slot as an array of a shape, uint8."""
        return np.ndarray(shape, np.uint8, self._memory, _HEADER_BYTES + slot * self.slot_bytes)
