"""Read images from paths, PIL images and other files, decoded completely.

Files are untrusted: `image_decoding` limits what is decoded and turns every failure into an ImageError.
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

NO_FILE = "-"


class StoredImage:
    """An image inside a zip or a table (see rankings/stored_images.py)."""

    @property
    def location(self) -> tuple[str, int]:
        """File and offset of the image. Reading images in this order is fast."""
        return "", 0

    @property
    def name(self) -> str:
        """Name of the image in errors, tables and rows."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Return the bytes of the image file. Any error means that it cannot be read."""
        raise NotImplementedError

    def state(self) -> tuple[str | int, ...]:
        """Return the result of ``image_state``."""
        raise NotImplementedError


ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | StoredImage"


def image_name(source: object) -> str:
    """Return the name of an image in errors and tables: its path or a description."""
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
    """Return values that change when an image changes, without reading its file.

    The first value is equal for copies of the image: a size, a checksum, or a digest of the pixels for an
    image in memory. For files the modification time follows. Empty if nothing is known.
    """
    try:
        if isinstance(source, StoredImage):
            return source.state()
        if isinstance(source, Image.Image):
            pixels = hashlib.blake2b(source.tobytes(), digest_size=16).hexdigest()
            return (f"{source.mode} {source.width}x{source.height} {pixels}",)
        return file_state(source)
    except Exception:  # damaged files raise many kinds of errors; reading the image reports them
        return ()


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (size, modification time in ns) of a file."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def state_text(content: str | bytes | None) -> str:
    """Return "size mtime_ns" of an image's file, "-" if there is none, "" if the image is not a path."""
    if not isinstance(content, str):
        return ""
    try:
        size, modified = file_state(content)
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return NO_FILE
    return f"{size} {modified}"


def open_image(source: ImageSource, *, warn: bool = True) -> Image.Image:
    """Read an image completely (the first frame of an animation) in its mode.

    Args:
        source: path of a file that Pillow reads (with any extension), a PIL image, or a StoredImage.
        warn: whether to issue a ClippedLevelsWarning for grayscale that does not fit into 8 bits.

    Raises:
        ImageNotFoundError: the file does not exist.
        ImageError: a URL, a folder or special file, an empty, truncated or oversized file, or not an image.
    """
    with ExitStack() as stack:
        return _decoded(source, warn, stack)


def open_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Image.Image:
    """Read an image from the bytes of its file, like ``open_image``.

    Args:
        data: content of the image file.
        name: name of the image in errors.
        warn: whether to issue a ClippedLevelsWarning.
    """
    with ExitStack() as stack:
        return _checked(_from_bytes(data, name, stack), name, warn)


@contextmanager
def decoded_image(source: ImageSource, *, warn: bool = True) -> Iterator[Image.Image]:
    """Read an image like ``open_image`` while holding its part of the pixel budget.

    For threads that decode at the same time: large images wait for each other. The image is closed at the end
    unless the source is a PIL image. A thread must not open a second image inside the block.
    """
    with ExitStack() as stack:
        image = _decoded(source, warn, stack)
        if image is not source:
            stack.callback(image.close)  # runs before the pixels are released
        yield image


@contextmanager
def decoded_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Iterator[Image.Image]:
    """Read an image from the bytes of its file, like ``decoded_image``."""
    with ExitStack() as stack:
        image = _checked(_from_bytes(data, name, stack), name, warn)
        stack.callback(image.close)
        yield image


def rgb_guard(name: str) -> AbstractContextManager[None]:
    """Return a context that raises ImageError if converting an image to RGB fails."""
    return guarded(lambda e: ImageError(name, f"cannot be converted to RGB: {reason(e)}"))


def pixels_of(path: str | os.PathLike[str]) -> int:
    """Return the number of pixels in the header of an image file.

    Raises:
        ImageError: as in ``open_image``.
    """
    name = image_name(path)
    with ExitStack() as stack:
        return weight(header_of(_file(name, stack), name))


def _decoded(source: ImageSource, warn: bool, stack: ExitStack) -> Image.Image:
    """Decode an image; ``stack`` holds its file and its part of the pixel budget."""
    name = image_name(source)
    if isinstance(source, Image.Image):
        image = _from_memory(source, name, stack)
    elif isinstance(source, (str, os.PathLike)):
        image = _from_file(name, stack)
    elif isinstance(source, StoredImage):
        image = _from_bytes(_stored_bytes(source, name), name, stack)
    else:
        raise ImageError(name, "expected a path or a PIL image")
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
