"""A process that decodes images into shared memory. It imports neither torch nor the models.

It receives lists of `Task` and answers each with a list of `Outcome`. It ends when the connection closes,
that is, also when its parent process is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ImageError, RewardCoreError
from .clipped_levels import clipping_message
from .image_file import decoded_image, decoded_image_bytes, rgb_guard, state_text
from .pixel_budget import share_pixel_budget
from .pixel_memory import rgb_memory
from .shared_pixel_budget import SharedPixelBudget
from .shared_slots import SharedSlots
from .square_image import SquareImage


class Task(NamedTuple):
    """An image to decode.

    Attributes:
        content: path of the image file, or its bytes.
        name: name of the image in errors and warnings.
        slot: number of the slot for its levels.
    """

    content: str | bytes
    name: str
    slot: int


class Outcome(NamedTuple):
    """What became of an image.

    Attributes:
        shape: shape of the levels in the slot; None if there is an error.
        error: why the image cannot be read.
        clipped: warning about levels that are clipped at 8 bits, if any.
        state: size and modification time of the image's file.
        failure: any other error, or its traceback.
    """

    shape: tuple[int, ...] | None
    error: ImageError | None = None
    clipped: str | None = None
    state: str = ""
    failure: RewardCoreError | str | None = None


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a worker process.

    Attributes:
        process: number of the process, from 0.
        processes: number of processes.
        square: how images are prepared.
        own_size: whether images that a GPU shrinks keep their size, as in
            ``ImageTransform.prepare_for_device``. Images larger than a slot are still shrunk.
        pixels: largest number of pixels that all processes decode at once.
        slots: number of slots.
        slot_bytes: bytes of a slot.
    """

    process: int
    processes: int
    square: SquareImage
    own_size: bool
    pixels: int
    slots: int
    slot_bytes: int


class Worker:
    """Decodes images into the slots of a shared file."""

    def __init__(self, descriptor: int, settings: WorkerSettings):
        self.settings = settings
        self.slots = SharedSlots(descriptor, settings.slots, settings.slot_bytes)
        share_pixel_budget(
            SharedPixelBudget(descriptor, settings.pixels, settings.process, settings.processes)
        )

    def decode(self, task: Task) -> Outcome:
        """Decode an image into its slot."""
        self.slots.working_on[self.settings.process] = task.slot
        state = state_text(task.content)  # before the file is read
        try:
            with _opened(task) as image, rgb_guard(task.name):
                levels = self._levels(image)
                np.copyto(self.slots.array(task.slot, levels.shape), levels)
                return Outcome(levels.shape, clipped=clipping_message(image, task.name), state=state)
        except ImageError as error:
            return Outcome(None, error, state=state)
        except RewardCoreError as error:  # such as an invalid limit
            return Outcome(None, failure=error)
        except Exception:
            return Outcome(None, failure=traceback.format_exc())
        finally:
            self.slots.working_on[self.settings.process] = -1

    def _levels(self, image: Image.Image) -> np.ndarray:
        square = self.settings.square
        if self.settings.own_size and square.shrinks(image):
            levels = rgb_memory(image)
            if levels.nbytes <= self.settings.slot_bytes:
                return levels
        return square.levels(image)


def _opened(task: Task) -> AbstractContextManager[Image.Image]:
    if isinstance(task.content, bytes):
        return decoded_image_bytes(task.content, task.name, warn=False)
    return decoded_image(task.content, warn=False)


def main(connection_descriptor: int, memory_descriptor: int) -> None:
    """Run a worker process.

    Args:
        connection_descriptor: the worker's end of the connection; WorkerSettings come first.
        memory_descriptor: the shared file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    connection = Connection(connection_descriptor)
    try:
        worker = Worker(memory_descriptor, connection.recv())
        connection.send("ready")
        while True:
            tasks: list[Task] = connection.recv()
            connection.send([worker.decode(task) for task in tasks])
    except (EOFError, ConnectionError):
        pass
    sys.stderr.flush()
    os._exit(0)
