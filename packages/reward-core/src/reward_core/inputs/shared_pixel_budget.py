"""A limit on the pixels that several processes decode at the same time.

The budget is a range of bytes of a file, which a process locks in part. The system releases the locks of a
process that ends in any way.
"""

from __future__ import annotations

PARTS = 1024  # bytes that can be locked; each stands for a part of the budget


class SharedPixelBudget:
    """The view of one process of a budget that processes share. It holds one image at a time.

    Args:
        descriptor: a file that all processes have open for writing.
        pixels: largest number of pixels that all of them hold at once.
        process: number of this process, from 0.
        processes: number of processes.
    """

    def __init__(self, descriptor: int, pixels: int, process: int, processes: int):
        self.descriptor, self.pixels = descriptor, pixels
        self.process, self.processes = process, processes

    def take(self, pixels: int) -> int:
        """Wait until the pixels are free, and return how many to give back."""
        import fcntl  # Windows does not have it

        parts = parts_for(pixels, self.pixels, self.process, self.processes)
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, len(parts), parts.start)
        return pixels

    def give_back(self, pixels: int) -> None:
        """Free the pixels that `take` returned."""
        import fcntl

        parts = parts_for(pixels, self.pixels, self.process, self.processes)
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, len(parts), parts.start)


def parts_for(pixels: int, budget: int, process: int, processes: int) -> range:
    """Return the parts of the budget that an image takes.

    A process begins with parts of its own, so that small images do not wait for each other. Images that need
    the same number of parts take the same parts or none in common. An image larger than the budget takes all.
    """
    count = min(PARTS, max(1, -(-pixels * PARTS // budget)))
    start = process * PARTS // processes
    start = min(start - start % count, PARTS - count)
    return range(start, start + count)
