"""Images from paths, from PIL or out of other files, decoded completely, with every failure named.

A file is foreign: `image_decoding` bounds what is decoded and turns any failure into an ImageError.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import BinaryIO, TypeAlias

from PIL import Image

from ..errors import ImageError, ImageNotFoundError
from ..files.foreign_bytes import guarded, open_regular, reason
from ..files.limits import MAX_IMAGE_FILE_BYTES
from .clipped_levels import warn_if_clipped
from .image_decoding import header_of, load, weight
from .pixel_budget import pixel_budget


class StoredImage:
    """An image that lies within another file: a zip, a table (see rankings/stored_images.py).

    ``name`` identifies it in errors, tables and rows. Reading many in the order of ``location`` is fast.
    """

    @property
    def location(self) -> tuple[str, int]:
        return "", 0

    @property
    def name(self) -> str:
        raise NotImplementedError

    def read(self) -> bytes:
        """The image's file. Any error means that it cannot be had."""
        raise NotImplementedError

    def state(self) -> tuple[str | int, ...]:
        """As ``image_state`` has it."""
        raise NotImplementedError


ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | StoredImage"


def image_name(source: object) -> str:
    """How errors, tables and rows call an image: its path, or what is known of a PIL image."""
    if isinstance(source, Image.Image):
        return str(
            getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width}x{source.height}>"
        )
    if isinstance(source, StoredImage):
        return source.name
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    return f"<{type(source).__name__}>"


def image_state(source: ImageSource) -> tuple[str | int, ...]:
    """What tells that an image has become another one, without reading its file.

    First what a copy elsewhere has too (a size, a checksum, of an image in memory a digest of its pixels),
    then, for files, the time of the last change. Empty where nothing can be known.
    """
    try:
        if isinstance(source, StoredImage):
            return source.state()
        if isinstance(source, Image.Image):
            pixels = hashlib.blake2b(source.tobytes(), digest_size=16).hexdigest()
            return (f"{source.mode} {source.width}x{source.height} {pixels}",)
        return file_state(source)
    except Exception:  # zips, tables and images are damaged in many ways; whoever opens it is told
        return ()


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(size, time of the last change in ns) of a file."""
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns


def open_image(source: ImageSource, *, warn: bool = True) -> Image.Image:
    """Read an image completely (the first frame of an animation), in its own mode.

    Args:
        source: a path to a file that Pillow reads (the extension does not matter), a PIL image, or a
            StoredImage.
        warn: whether to issue a ClippedLevelsWarning for grayscale that does not fit into 8 bits.

    Raises:
        ImageNotFoundError: no file at that path.
        ImageError: not a regular file, a URL, an empty, truncated or oversized file, or no image at all.
    """
    with ExitStack() as stack:
        return _decoded(source, warn, stack)


def open_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Image.Image:
    """Read an image from the bytes of its file, as ``open_image`` does; errors call it ``name``."""
    with ExitStack() as stack:
        return _checked(_from_bytes(data, name, stack), name, warn)


@contextmanager
def decoded_image(source: ImageSource, *, warn: bool = True) -> Iterator[Image.Image]:
    """Give an image as ``open_image`` does, and count its pixels in this process's budget meanwhile.

    Threads that decode at once use this, so that large images wait for each other. The image is closed at the
    end unless it was a PIL image; a thread must not open a second one inside.
    """
    with ExitStack() as stack:
        image = _decoded(source, warn, stack)
        if image is not source:
            stack.callback(image.close)  # before the pixels are given back
        yield image


@contextmanager
def decoded_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Iterator[Image.Image]:
    """``decoded_image`` from the bytes of a file; errors call it ``name``."""
    with ExitStack() as stack:
        image = _checked(_from_bytes(data, name, stack), name, warn)
        stack.callback(image.close)
        yield image


def rgb_guard(name: str) -> AbstractContextManager[None]:
    """Turn whatever fails while an image is brought to RGB into an ImageError."""
    return guarded(lambda e: ImageError(name, f"cannot be turned into RGB: {reason(e)}"))


def pixels_of(path: str | os.PathLike[str]) -> int:
    """Return how many pixels a file's header claims. Raises ImageError as ``open_image`` does."""
    name = image_name(path)
    with ExitStack() as stack:
        return weight(header_of(_file(name, stack), name))


def _decoded(source: ImageSource, warn: bool, stack: ExitStack) -> Image.Image:
    """Decode an image; the stack holds its file and its part of the pixel budget."""
    name = image_name(source)
    if isinstance(source, Image.Image):
        image = _from_memory(source, name, stack)
    elif isinstance(source, (str, os.PathLike)):
        image = _from_file(name, stack)
    elif isinstance(source, StoredImage):
        image = _from_bytes(_stored_bytes(source, name), name, stack)
    else:
        raise ImageError(name, "a path or a PIL image was expected")
    return _checked(image, name, warn)


def _checked(image: Image.Image, name: str, warn: bool) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(name, f"the image is empty ({image.width}x{image.height} pixels)")
    if warn:
        warn_if_clipped(image, name)
    return image


def _from_memory(image: Image.Image, name: str, stack: ExitStack) -> Image.Image:
    stack.enter_context(pixel_budget().held(weight(image)))
    with guarded(lambda e: ImageError(name, f"cannot be decoded: {reason(e)}")):
        image.load()
    return image


def _from_file(path: str, stack: ExitStack) -> Image.Image:
    image = header_of(_file(path, stack), path)
    image.filename = path  # type: ignore[attr-defined]  # as Image.open sets it
    stack.enter_context(pixel_budget().held(weight(image)))
    return load(image, path)


def _from_bytes(data: bytes, name: str, stack: ExitStack) -> Image.Image:
    if not data:
        raise ImageError(name, "the file is empty (0 bytes)")
    image = header_of(io.BytesIO(data), name)
    stack.enter_context(pixel_budget().held(weight(image)))
    return load(image, name)


def _file(path: str, stack: ExitStack) -> BinaryIO:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ImageError(path, "this is a URL; download the image and give the path of the file")
    if os.path.isdir(path):
        raise ImageError(path, "this is a folder; give the images in it")
    if not os.path.exists(path):
        raise ImageNotFoundError(path, "no such file")
    with guarded(lambda e: ImageError(path, f"{'cannot be read: ' * isinstance(e, OSError)}{reason(e)}")):
        file = stack.enter_context(open_regular(path, MAX_IMAGE_FILE_BYTES))
        if os.fstat(file.fileno()).st_size == 0:
            raise ImageError(path, "the file is empty (0 bytes)")
        return file


def _stored_bytes(source: StoredImage, name: str) -> bytes:
    with guarded(lambda e: ImageError(name, f"cannot be read: {reason(e)}")):
        return source.read()
