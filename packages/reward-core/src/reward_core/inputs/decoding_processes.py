"""Images decoded ahead by processes, for GPUs that are faster than threads can decode.

Threads of one process wait for Python's lock, which the thread that launches work on the GPU needs too.
Processes write decoded images into shared memory, from where they are uploaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ..errors import RewardCoreError, WorkerError
from ..files.limits import MAX_PIXELS_IN_FLIGHT
from .decode_ahead import DecodedImage
from .decoding_feeder import Feeder
from .decoding_worker import WorkerSettings
from .image_queue import CHUNK, Chunk, ImageQueue
from .shared_slots import MOST_PROCESSES, SLOT_BYTES, SharedSlots
from .square_image import SquareImage


class DecodingProcesses:
    """A context manager with processes that decode images.

    Results must be read in the order in which the images were submitted.

    Args:
        square: how images are prepared.
        own_size: whether images that a GPU shrinks keep their size, as in
            ``ImageTransform.prepare_for_device``.
        processes: number of processes.
        slots: number of decoded images in memory.
    """

    def __init__(self, square: SquareImage, own_size: bool, processes: int, slots: int):
        self._square, self._own_size = square, own_size
        self._processes = min(processes, MOST_PROCESSES)
        self._slot_count = max(slots, 2 * CHUNK * self._processes)

    def __enter__(self) -> DecodingProcesses:
        pixels = MAX_PIXELS_IN_FLIGHT.value
        slot_bytes = max(SLOT_BYTES, 3 * self._square.size**2)
        self._queue = ImageQueue(self._slot_count)
        self._slots = SharedSlots.create(self._slot_count, slot_bytes)
        settings = partial(
            WorkerSettings,
            processes=self._processes,
            square=self._square,
            own_size=self._own_size,
            pixels=pixels,
            slots=self._slot_count,
            slot_bytes=slot_bytes,
        )
        self._feeders = [
            Feeder(self._queue, self._slots, settings(process=number)) for number in range(self._processes)
        ]
        for feeder in self._feeders:
            feeder.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.close()
        for feeder in self._feeders:
            feeder.kill()
        for feeder in self._feeders:
            feeder.join()
        self._slots.close()

    def submit(self, images: Sequence[tuple[str | bytes, str]]) -> list[ImageInProcess]:
        """Return images that processes decode.

        Args:
            images: (path or bytes of the file, name in errors and warnings) of each.
        """
        return [
            ImageInProcess(self._queue, self._slots, chunk, index)
            for chunk in self._queue.add(images)
            for index in range(len(chunk.images))
        ]


class ImageInProcess:
    """An image that a process decodes."""

    def __init__(self, queue: ImageQueue, slots: SharedSlots, chunk: Chunk, index: int):
        self._queue, self._slots, self._chunk, self._index = queue, slots, chunk, index
        self._decoded: DecodedImage | None = None

    def result(self) -> DecodedImage:
        """Return the decoded image. Its pixels are valid until it is released.

        Raises:
            WorkerError: a process failed, or processes ended again and again.
        """
        if self._decoded is None:
            self._decoded = self._take()
        return self._decoded

    def _take(self) -> DecodedImage:
        outcome, slot, may_stay = self._queue.take(self._chunk, self._index)
        release = partial(self._queue.release, slot, may_stay)
        if outcome.shape is None:
            release()
            if isinstance(outcome.failure, RewardCoreError):
                raise outcome.failure
            if outcome.failure is not None:
                raise WorkerError(f"A process that decodes images failed: {outcome.failure}")
            return DecodedImage(None, outcome.error, state=outcome.state)
        pixels = torch.from_numpy(self._slots.array(slot, outcome.shape))
        if not may_stay:
            pixels = pixels.clone()
            release()
            return DecodedImage(pixels, None, outcome.clipped, outcome.state)
        return DecodedImage(pixels, None, outcome.clipped, outcome.state, release)
