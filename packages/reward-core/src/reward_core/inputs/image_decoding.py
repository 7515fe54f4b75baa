"""Safe decoding with Pillow: raster formats, limited pixels, one error type."""

from __future__ import annotations

from functools import cache
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from ..files.foreign_bytes import guarded, reason
from ..files.limits import MAX_IMAGE_PIXELS, MAX_PIXELS_IN_FLIGHT
from .image_formats import UNBOUNDED_BY_HEADER, readable_formats

#: Memory of decoders as a multiple of the memory of the image. It counts only for large images, so that it
#: does not reduce the number of threads that decode photos.
MEMORY_OF_DECODER = {"WEBP": 4, "JPEG2000": 5, "AVIF": 3, "GIF": 2, "JPEG": 3}
LARGE = 32 * 2**20  # pixels
BLOCK = 64 * 2**20  # bytes of a memory block of Pillow


def header_of(file: BinaryIO, name: str) -> Image.Image:
    """Return the image in a file without decoding it.

    Raises:
        ImageError: the file is not an image, or its image is too large.
    """
    _set_up_pillow()
    with guarded(lambda error: image_error(name, error)):
        return Image.open(file, formats=readable_formats())


def weight(image: Image.Image) -> int:
    """Return the number of pixels that an image takes from the pixel budget."""
    pixels = image.width * image.height
    if getattr(image, "fp", None) is None:
        return pixels  # decoded already
    if image.format in UNBOUNDED_BY_HEADER:
        return MAX_PIXELS_IN_FLIGHT.value
    if pixels > LARGE and (image.format != "JPEG" or "progressive" in image.info):
        return pixels * MEMORY_OF_DECODER.get(image.format or "", 1)
    return pixels


def image_error(name: str, error: BaseException) -> ImageError:
    """Return an ImageError for an error of Pillow, beginning with its kind."""
    if isinstance(error, UnidentifiedImageError):
        return ImageError(name, "not an image in any format that Pillow reads")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(name, f"too large to decode safely: {error} ({MAX_IMAGE_PIXELS.advice})")
    if isinstance(error, MemoryError):
        return ImageError(name, "not enough memory to decode it")
    # Errors of the operating system have an errno; Pillow's errors about damaged bytes have none.
    system = isinstance(error, OSError) and error.errno is not None
    return ImageError(name, f"{'cannot be read' if system else 'damaged or truncated'}: {reason(error)}")


@cache
def _set_up_pillow() -> None:
    """Set Pillow's pixel limit to the user's, and use larger memory blocks."""
    if MAX_IMAGE_PIXELS.is_given:  # Pillow refuses twice its own limit
        Image.MAX_IMAGE_PIXELS = max(1, MAX_IMAGE_PIXELS.value // 2)
    # glibc keeps freed blocks of up to 32 MB in their thread, so each thread would keep the memory of the
    # largest image it decoded. Larger blocks are returned to the system.
    if Image.core.get_block_size() < BLOCK:
        Image.core.set_block_size(BLOCK)
