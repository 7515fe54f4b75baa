"""Pictures from paths or from PIL, opened completely, with every failure named."""

from __future__ import annotations

import os
import re
from typing import TypeAlias

from PIL import Image, UnidentifiedImageError

from .errors import ImageError, ImageNotFoundError

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image"


def image_name(source: object) -> str:
    """How errors, tables and rows call a picture: its path, or what is known of a PIL image."""
    if isinstance(source, Image.Image):
        return str(
            getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width}x{source.height}>"
        )
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    return f"<{type(source).__name__}>"


def open_image(source: ImageSource) -> Image.Image:
    """Read a picture completely (the first frame of an animation), in its own mode.

    Args:
        source: a path to a file that Pillow reads (the extension does not matter), or a PIL image.

    Raises:
        ImageNotFoundError: no file at that path.
        ImageError: a folder, a URL, an empty, truncated or oversized file, or no picture at all.
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
    else:
        raise ImageError(name, "a path or a PIL image was expected")
    if image.width == 0 or image.height == 0:
        raise ImageError(name, f"the picture is empty ({image.width}x{image.height} pixels)")
    return image


def _open_file(path: str) -> Image.Image:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ImageError(path, "this is a URL; download the picture and give the path of the file")
    if os.path.isdir(path):
        raise ImageError(path, "this is a folder; give the pictures in it")
    if not os.path.exists(path):
        raise ImageNotFoundError(path, "no such file")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ImageError(path, "the file is empty (0 bytes)")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise ImageError(path, "not a picture in any format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to decode safely: {error}") from error
    except MemoryError as error:
        raise ImageError(path, "not enough memory to decode it") from error
    except Exception as error:  # Pillow's readers meet damaged bytes with any kind of error
        raise ImageError(path, f"damaged or truncated: {error}") from error
