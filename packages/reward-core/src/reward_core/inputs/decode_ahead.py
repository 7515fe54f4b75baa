"""Images decoded ahead by threads, so that the model does not wait for files.

Threads need no copies between processes. Pillow releases Python's lock while it decodes and resizes, and
pixel_memory.py copies pixels without it (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from PIL import Image
from torch import Tensor

from ..errors import ImageError
from ..runs.cpus import usable_cpus
from .clipped_levels import clipping_message
from .image_file import ImageSource, StoredImage, decoded_image, image_name, rgb_guard

MOST_THREADS = 32

#: Function from a decoded image to a tensor; several threads call it at once.
Prepare: TypeAlias = "Callable[[Image.Image], Tensor]"


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image or the error that prevents decoding it.

    Attributes:
        pixels: the image as input of the model's transform; None if there is an error.
        error: why the image cannot be read.
        clipped: warning about levels that are clipped at 8 bits, if any.
        state: size and modification time of the image's file, where a bulk run needs it.
        on_release: called by ``release``.
        others: the image as input of further transforms.
        name: name of the image in errors; empty if a process decoded it.
    """

    pixels: Tensor | None
    error: ImageError | None = None
    clipped: str | None = None
    state: str = ""
    on_release: Callable[[], None] | None = None
    others: tuple[Tensor, ...] = ()
    name: str = ""

    def release(self) -> None:
        """Give back the memory of the pixels, which are copied or not needed anymore. Call it once."""
        if self.on_release is not None:
            self.on_release()


class Pending(Protocol):
    """An image that is being decoded, such as a Future."""

    def result(self) -> DecodedImage: ...


@dataclass(frozen=True)
class DecodedWhenRead:
    """An image that is decoded by the thread that reads it."""

    decode: Callable[[Any], DecodedImage]
    source: Any

    def result(self) -> DecodedImage:
        return self.decode(self.source)


def decoded(source: ImageSource, prepare: Prepare, others: Sequence[Prepare] = ()) -> DecodedImage:
    """Decode an image and prepare it for the model.

    Args:
        source: path of an image, a PIL image or a StoredImage.
        prepare: function from a decoded image to a tensor; several threads call it at once.
        others: the same for further models.
    """
    return decoded_by(lambda: decoded_image(source, warn=False), image_name(source), prepare, others=others)


def decoded_by(
    open_image: Callable[[], AbstractContextManager[Image.Image]],
    name: str,
    prepare: Prepare,
    state: str = "",
    others: Sequence[Prepare] = (),
) -> DecodedImage:
    """Decode an image with ``open_image`` and prepare it for the model.

    Args:
        open_image: function that opens the decoded image, without a warning about clipped levels.
        name: name of the image in errors and warnings.
        prepare: function from a decoded image to a tensor.
        state: stored in the result.
        others: functions that prepare the image for further models.
    """
    try:
        with open_image() as image, rgb_guard(name):
            clipped = clipping_message(image, name)
            others_pixels = tuple(other(image) for other in others)
            return DecodedImage(prepare(image), None, clipped, state, others=others_pixels, name=name)
    except ImageError as error:
        error.__traceback__ = None  # its frames hold the image
        return DecodedImage(None, error, state=state)


class DecodingThreads:
    """A context manager with threads that decode images.

    Args:
        threads: number of threads (default: the number of CPUs minus one, which is left to the model).
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(1, min(MOST_THREADS, usable_cpus() - 1))
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> DecodingThreads:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, decode: Callable[[Any], DecodedImage], source: Any) -> Pending:
        """Return an image that a thread decodes.

        An image that threads may not share is decoded by the thread that reads it.
        """
        if not _may_be_shared(source):
            return DecodedWhenRead(decode, source)
        self._pool = self._pool or ThreadPoolExecutor(self.threads, "reward-core-decode")
        return self._pool.submit(decode, source)


def _may_be_shared(source: object) -> bool:
    """Return whether threads may open the source.

    A PIL image that is not loaded yet or has a palette changes while it is read, and a caller may pass the
    same image twice. StoredImages share the file that they are in.
    """
    if isinstance(source, Image.Image):
        return getattr(source, "fp", None) is None and source.mode not in ("P", "PA")
    return not isinstance(source, StoredImage)
