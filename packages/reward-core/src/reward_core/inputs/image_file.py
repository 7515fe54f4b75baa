"""Read images from paths, PIL images and other files, decoded completely.

Files are untrusted: `image_decoding` limits what is decoded and turns every failure into an ImageError.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, TypeAlias

from PIL import Image

from ..errors import ImageError, ImageNotFoundError
from ..files.foreign_bytes import guarded, open_small, reason
from ..files.limits import MAX_IMAGE_FILE_BYTES
from .clipped_levels import warn_if_clipped
from .image_decoding import header_of, image_error, weight
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


def _advice(source: object) -> str:
    """Return what to do with an image of another type, as the end of an error."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return ". Open the bytes of a file with PIL.Image.open(io.BytesIO(data))"
    if type(source).__module__.partition(".")[0] == "torch":
        return ". Pass float tensors in [0, 1] to rewards_from_pixels"
    if hasattr(source, "__array_interface__"):
        return ". Convert an array of 8-bit RGB with PIL.Image.fromarray"
    return ""


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
    image, pixels = _decoded(source, warn)
    pixel_budget().give_back(pixels)
    return image


def open_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Image.Image:
    """Read an image from the bytes of its file, like ``open_image``.

    Args:
        data: content of the image file.
        name: name of the image in errors.
        warn: whether to issue a ClippedLevelsWarning.
    """
    image, pixels = _from_bytes(data, name, warn)
    pixel_budget().give_back(pixels)
    return image


def decoded_image(source: ImageSource, *, warn: bool = True) -> AbstractContextManager[Image.Image]:
    """Read an image like ``open_image`` while holding its part of the pixel budget.

    For threads that decode at the same time: large images wait for each other. The image is closed at the end
    unless the source is a PIL image. A thread must not open a second image inside the block.
    """
    return _DecodedImage(lambda: _decoded(source, warn), source)


def decoded_image_bytes(data: bytes, name: str, *, warn: bool = True) -> AbstractContextManager[Image.Image]:
    """Read an image from the bytes of its file, like ``decoded_image``."""
    return _DecodedImage(lambda: _from_bytes(data, name, warn))


class _DecodedImage:
    """The context of ``decoded_image``. A class is faster than a generator."""

    __slots__ = ("decode", "image", "pixels", "source")

    def __init__(self, decode: Callable[[], tuple[Image.Image, int]], source: object = None):
        self.decode, self.source = decode, source

    def __enter__(self) -> Image.Image:
        self.image, self.pixels = self.decode()
        return self.image

    def __exit__(self, *error: object) -> None:
        try:
            if self.image is not self.source:
                self.image.close()
        finally:
            pixel_budget().give_back(self.pixels)


class UnfitImageError(ValueError):
    """An image that a model cannot read, such as a very long strip. The message is the reason."""


def rgb_guard(name: str) -> AbstractContextManager[None]:
    """Return a context that raises ImageError if converting an image to RGB fails or a model refuses it."""

    def refused(error: BaseException) -> ImageError:
        if isinstance(error, UnfitImageError):
            return ImageError(name, str(error))
        return ImageError(name, f"cannot be converted to RGB: {reason(error)}")

    return guarded(refused)


def pixels_of(path: str | os.PathLike[str]) -> int:
    """Return the number of pixels in the header of an image file.

    Raises:
        ImageError: as in ``open_image``.
    """
    name = image_name(path)
    with _file(name) as file:
        return weight(header_of(file, name))


def _decoded(source: ImageSource, warn: bool) -> tuple[Image.Image, int]:
    """Return a decoded image and the pixels that it holds of the pixel budget."""
    name = image_name(source)
    if isinstance(source, Image.Image):
        return _loaded(source, name, warn, lambda e: ImageError(name, f"cannot be decoded: {reason(e)}"))
    if isinstance(source, (str, os.PathLike)):
        return _from_file(name, warn)
    if isinstance(source, StoredImage):
        return _from_bytes(_stored_bytes(source, name), name, warn)
    raise ImageError(name, f"expected a path or a PIL image{_advice(source)}")


def _from_file(path: str, warn: bool) -> tuple[Image.Image, int]:
    with _file(path) as file:
        image, pixels = _loaded(header_of(file, path), path, warn, lambda e: image_error(path, e))
    # As Image.open sets it. Earlier, Pillow would open the path again, to map it into memory.
    image.filename = path  # type: ignore[attr-defined]
    return image, pixels


def _from_bytes(data: bytes, name: str, warn: bool) -> tuple[Image.Image, int]:
    if not data:
        raise ImageError(name, "the file is empty (0 bytes)")
    return _loaded(header_of(io.BytesIO(data), name), name, warn, lambda e: image_error(name, e))


def _loaded(
    image: Image.Image, name: str, warn: bool, error: Callable[[BaseException], ImageError]
) -> tuple[Image.Image, int]:
    """Decode an image and return it with the pixels that it holds of the pixel budget."""
    pixels = pixel_budget().take(weight(image))
    try:
        with guarded(error):
            image.load()
        if image.width == 0 or image.height == 0:
            raise ImageError(name, f"the image is empty ({image.width}x{image.height} pixels)")
        if warn:
            warn_if_clipped(image, name)
    except BaseException:
        pixel_budget().give_back(pixels)
        raise
    return image, pixels


def _file(path: str) -> BinaryIO:
    """Open an image file; only a failure costs more system calls than opening it."""
    if "://" in path and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ImageError(path, "this is a URL; download the image and give the path of the file")
    with guarded(lambda error: _not_opened(path, error)):
        file = open_small(path, MAX_IMAGE_FILE_BYTES)
        if not file.read(1):
            file.close()
            raise ImageError(path, "the file is empty (0 bytes)")
        return file


def _not_opened(path: str, error: BaseException) -> ImageError:
    if os.path.isdir(path):
        return ImageError(path, "this is a folder; give the images in it")
    if not os.path.exists(path):
        return ImageNotFoundError(path, "no such file")
    return ImageError(path, f"{'cannot be read: ' * isinstance(error, OSError)}{reason(error)}")


def _stored_bytes(source: StoredImage, name: str) -> bytes:
    with guarded(lambda e: ImageError(name, f"cannot be read: {reason(e)}")):
        return source.read()
