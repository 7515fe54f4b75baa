"""Images from paths, from PIL or out of other files, opened completely, with every failure named."""

from __future__ import annotations

import hashlib
import io
import os
import re
from typing import BinaryIO, TypeAlias

from PIL import Image, UnidentifiedImageError

from ..errors import ImageError, ImageNotFoundError
from .clipped_levels import warn_if_clipped


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
        ImageError: a folder, a URL, an empty, truncated or oversized file, or no image at all.
    """
    name = image_name(source)
    if isinstance(source, Image.Image):
        image = source
        try:
            image.load()
        except MemoryError:
            raise  # whoever scores in batches makes them smaller
        except Exception as error:
            raise ImageError(name, f"cannot be decoded: {error}") from error
    elif isinstance(source, (str, os.PathLike)):
        image = _open_file(name)
    elif isinstance(source, StoredImage):
        image = _open_stored(source, name)
    else:
        raise ImageError(name, "a path or a PIL image was expected")
    return _with_pixels(image, name, warn)


def open_image_bytes(data: bytes, name: str, *, warn: bool = True) -> Image.Image:
    """Read an image from the bytes of its file, as ``open_image`` does; errors call it ``name``."""
    if not data:
        raise ImageError(name, "the file is empty (0 bytes)")
    return _with_pixels(_decode(io.BytesIO(data), name), name, warn)


def _with_pixels(image: Image.Image, name: str, warn: bool) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(name, f"the image is empty ({image.width}x{image.height} pixels)")
    if warn:
        warn_if_clipped(image, name)
    return image


def _open_file(path: str) -> Image.Image:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ImageError(path, "this is a URL; download the image and give the path of the file")
    if os.path.isdir(path):
        raise ImageError(path, "this is a folder; give the images in it")
    if not os.path.exists(path):
        raise ImageNotFoundError(path, "no such file")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ImageError(path, "the file is empty (0 bytes)")
    return _decode(path, path)


def _open_stored(source: StoredImage, name: str) -> Image.Image:
    try:
        content = source.read()
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "not enough memory to read it") from error
    except Exception as error:  # zips and tables are damaged in as many ways as images
        raise ImageError(name, f"cannot be read: {error}") from error
    return open_image_bytes(content, name, warn=False)


def _decode(file: str | BinaryIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise ImageError(name, "not an image in any format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"too large to decode safely: {error}") from error
    except MemoryError as error:
        raise ImageError(name, "not enough memory to decode it") from error
    except OSError as error:
        # The system's errors have a number; Pillow's of damaged bytes have none.
        reason = "damaged or truncated" if error.errno is None else "cannot be read"
        raise ImageError(name, f"{reason}: {error.strerror or error}") from error
    except Exception as error:  # Pillow's readers meet damaged bytes with any kind of error
        raise ImageError(name, f"damaged or truncated: {error}") from error
