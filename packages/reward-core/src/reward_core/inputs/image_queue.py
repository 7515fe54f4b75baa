"""Images on their way to the processes that decode them, and their outcomes.

Images travel in chunks, because a message costs the sender about as much time as several images. A chunk
gets slots of shared memory when it is sent; a slot is free again when its image was copied out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .decoding_worker import Outcome, Task

CHUNK = 4  # images


class QueueClosedError(RuntimeError):
    """The queue was closed while its images were still wanted."""

    def __init__(self) -> None:
        super().__init__("the processes that decode images have ended")


@dataclass(eq=False)
class Chunk:
    """Images that are sent to a process together.

    Attributes:
        images: (path or bytes of the file, name) of each; empty when all are decoded.
        slots: slot of each; empty until the chunk is sent.
        outcomes: outcome of each; None until it is known.
    """

    images: list[tuple[str | bytes, str]]
    slots: list[int] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    done: bool = False

    def tasks(self) -> list[Task]:
        """Return the tasks of its images."""
        return [Task(content, name, slot) for (content, name), slot in zip(self.images, self.slots)]

    def store(self, slot: int, outcome: Outcome) -> None:
        """Store the outcome of the image in a slot."""
        self.outcomes[self.slots.index(slot)] = outcome
        if None not in self.outcomes:
            self.done, self.images = True, []


class ImageQueue:
    """A queue of images, read by the threads that pass images to processes. Thread-safe.

    Args:
        slots: number of slots.
    """

    def __init__(self, slots: int):
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # there are more chunks or slots, or the queue is closed
        self._done = threading.Condition(lock)  # a chunk is done, or the queue is closed
        self._chunks: deque[Chunk] = deque()
        self._slots, self._free = slots, list(range(slots))
        self._idle = 0  # threads that wait for a chunk
        self._lent = 0  # images that are read in their slots and not released
        self._error: BaseException | None = None
        self.closed = False

    def add(self, images: Sequence[tuple[str | bytes, str]]) -> list[Chunk]:
        """Add images, (path or bytes of the file, name) each, and return them in chunks."""
        chunks = [Chunk(list(images[start : start + CHUNK])) for start in range(0, len(images), CHUNK)]
        with self._work:
            if self.closed:
                raise QueueClosedError
            self._chunks.extend(chunks)
            self._work.notify(len(chunks))
        return chunks

    def next(self, wait: bool) -> Chunk | None:
        """Return the next chunk with slots for its images; None if the queue is closed.

        Args:
            wait: wait for a chunk. Otherwise return None if there is none, or if a waiting thread needs it.
        """
        with self._work:
            while not self.closed:
                if self._can_send() and (wait or len(self._chunks) > self._idle):
                    chunk = self._chunks.popleft()
                    chunk.slots = [self._free.pop() for _ in chunk.images]
                    chunk.outcomes = [None] * len(chunk.images)
                    return chunk
                if not wait:
                    break
                self._idle += 1
                try:
                    self._work.wait()
                finally:
                    self._idle -= 1
        return None

    def store(self, chunk: Chunk, outcomes: Iterable[tuple[int, Outcome]]) -> None:
        """Store outcomes of images of a chunk, (slot, outcome) each."""
        with self._done:
            for slot, outcome in outcomes:
                chunk.store(slot, outcome)
            if chunk.done:
                self._done.notify_all()

    def take(self, chunk: Chunk, index: int) -> tuple[Outcome, int, bool]:
        """Wait for an image of a chunk.

        Chunks must be taken in the order in which they were added.

        Returns:
            Its outcome; its slot; and whether it may stay there until it is released. Otherwise the caller
            must copy and release it at once, so that a batch of more images than slots does not wait for
            itself.
        """
        with self._done:
            while not (chunk.done or self.closed):
                self._done.wait()
            if self._error is not None:
                raise self._error
            if not chunk.done:
                raise QueueClosedError
            outcome = chunk.outcomes[index]
            assert outcome is not None
            may_stay = self._lent < self._slots // 2
            self._lent += may_stay
            return outcome, chunk.slots[index], may_stay

    def release(self, slot: int, lent: bool) -> None:
        """Make a slot free again.

        Args:
            slot: number of the slot.
            lent: whether the image was allowed to stay in it.
        """
        with self._work:
            self._lent -= lent
            self._free.append(slot)
            if self._idle and self._can_send():
                self._work.notify()

    def close(self, error: BaseException | None = None) -> None:
        """Wake up all waiting threads.

        Args:
            error: raised by ``take`` from now on.
        """
        with self._work:
            if not self.closed:  # an error after closing is its effect
                self._error = error
            self.closed = True
            self._chunks.clear()
            self._work.notify_all()
            self._done.notify_all()

    def _can_send(self) -> bool:
        return bool(self._chunks) and len(self._free) >= len(self._chunks[0].images)
