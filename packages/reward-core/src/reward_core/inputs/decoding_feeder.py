"""A thread that passes images to one decoding process and starts it again when it crashes."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from ..errors import ImageError, WorkerError
from .decoding_process import DecodingProcess
from .decoding_worker import Outcome, Task, WorkerSettings
from .image_queue import Chunk, ImageQueue
from .shared_slots import SharedSlots

SENT_AHEAD = 2  # messages, so that the process need not wait for this thread
MOST_CRASHES = 3  # in a row


class _Message(NamedTuple):
    """Images of a chunk that are sent together."""

    chunk: Chunk
    tasks: list[Task]


class Feeder:
    """A process and the thread that passes images to it.

    An image during which the process ends gets an ImageError. The queue is closed with a WorkerError if the
    process ends three times without decoding an image in between.

    Args:
        queue: the images.
        slots: memory for the decoded images.
        settings: settings of the process.
    """

    def __init__(self, queue: ImageQueue, slots: SharedSlots, settings: WorkerSettings):
        self._queue, self._slots, self._settings = queue, slots, settings
        self._waiting: deque[_Message] = deque()  # messages to send
        self._sent: deque[_Message] = deque()
        self._process: DecodingProcess | None = None
        self._lock = threading.Lock()  # held while a process is started or killed
        name = f"reward-core-decode-{settings.process}"
        # A daemon, so that an iterator that is never closed does not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, which starts the process."""
        self._thread.start()

    def kill(self) -> None:
        """End the process after the queue was closed."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        crashes = 0
        try:
            while not self._queue.closed:
                try:
                    if not self._start_process():
                        break
                    while self._pass_images():
                        crashes = 0
                    break
                except (EOFError, OSError) as error:
                    crashes += 1
                    self._after_crash(crashes, error)
        except BaseException as error:
            self._queue.close(error)
        finally:
            self._close_process()

    def _start_process(self) -> bool:
        """Start the process; return False if the queue is closed. Raise WorkerError."""
        with self._lock:
            if self._queue.closed:
                return False
            self._process = process = DecodingProcess(self._settings, self._slots.descriptor)
        process.wait_until_ready()
        return True

    def _pass_images(self) -> bool:
        """Send what the process needs and receive a message; return False if the queue is closed."""
        assert self._process is not None
        while len(self._sent) < SENT_AHEAD:
            if not self._waiting:
                chunk = self._queue.next(wait=not self._sent)
                if chunk is None:
                    break
                self._waiting.append(_Message(chunk, chunk.tasks()))
            self._process.send(self._waiting[0].tasks)
            self._sent.append(self._waiting.popleft())
        if not self._sent:
            return False
        outcomes = self._process.receive()
        message = self._sent.popleft()
        self._queue.store(message.chunk, zip((task.slot for task in message.tasks), outcomes))
        return True

    def _after_crash(self, crashes: int, error: Exception) -> None:
        """Store an error for the image that was being decoded, and send the others again.

        Raises:
            WorkerError: too many crashes in a row.
        """
        ending = self._close_process()
        if self._queue.closed:
            return
        crashed_slot = int(self._slots.working_on[self._settings.process])
        self._slots.working_on[self._settings.process] = -1
        again: list[_Message] = []
        name = "its images"
        for chunk, tasks in self._sent:
            for task in tasks:
                if task.slot != crashed_slot:
                    again.append(_Message(chunk, [task]))  # one by one: the next crash repeats less
                    continue
                name = repr(task.name)
                reason = f"the process that decoded it ended unexpectedly ({ending})"
                self._queue.store(chunk, [(task.slot, Outcome(None, ImageError(task.name, reason)))])
        if crashes == MOST_CRASHES:
            raise WorkerError(
                f"Cannot decode {name}: its process ended unexpectedly {crashes} times in a "
                f'row ({ending}). Use decoders="threads", or fewer processes if the memory is full.'
            ) from error
        self._sent.clear()
        self._waiting.extendleft(reversed(again))

    def _close_process(self) -> str:
        """End the process; return how it ended."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return ""
        ending = process.ending() if not self._queue.closed else ""
        process.close()
        return ending
