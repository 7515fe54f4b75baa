"""Reading of all texts in the metadata of an image file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from ..errors import ImageError, ImageNotFoundError
from ..files.foreign_bytes import NotReadableError, guarded, read_regular, reason
from ..files.limits import MAX_IMAGE_FILE_BYTES
from . import exif, jpeg, png, text_encoding, webp, xmp
from .png import TextBudget

T = TypeVar("T")
FORMATS = "PNG, JPEG and WebP"
_NAMED = (png.DamagedPng, jpeg.DamagedJpeg, webp.DamagedWebp, exif.DamagedExif, xmp.StrangeXmp)


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts in the metadata of an image, by name.

    The name is the keyword of a PNG text, the tag of an EXIF text (UserComment, ...) or the property of an
    XMP text (dc:description, ...); a JPEG comment is "Comment". Bytes that cannot be decoded become lone
    surrogates.

    Raises:
        ImageError: the file does not exist, is not PNG, JPEG or WebP, or is damaged.
    """
    return _guarded(path, _texts)


def _read(name: str) -> bytes:
    try:
        return read_regular(name, MAX_IMAGE_FILE_BYTES)
    except FileNotFoundError as error:
        raise ImageNotFoundError(name, "no such file") from error
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror}") from error
    except (NotReadableError, MemoryError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError(name, reason(error)) from error


def _guarded(path: str | os.PathLike[str], read: Callable[[bytes], T]) -> T:
    name = os.fspath(path)
    data = _read(name)
    with guarded(lambda error: _damaged(name, error)):
        return read(data)


def _damaged(name: str, error: BaseException) -> ImageError:
    """Return an ImageError for an error of a metadata reader."""
    named = isinstance(error, (*_NAMED, MemoryError, RecursionError))
    return ImageError(name, reason(error) if named else f"damaged metadata: {reason(error)}")


def _format(data: bytes) -> str:
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise png.DamagedPng("the file is empty (0 bytes)" if not data else f"not a supported format ({FORMATS})")


def _texts(data: bytes) -> dict[str, str]:
    kind, block = _format(data), None
    texts: dict[str, str] = {}
    if kind == "png":
        budget = TextBudget()
        for chunk in png.chunks(data)[0]:
            if (text := png.as_text(chunk, budget)) is not None:
                texts.setdefault(text.keyword, text.text)
            elif chunk.kind == b"eXIf":
                block = bytes(chunk.data)
    elif kind == "jpeg":
        for segment in jpeg.segments(data)[0]:
            if segment.marker == jpeg.COMMENT:
                texts.setdefault("Comment", text_encoding.decode_leniently(segment.data))
            elif segment.marker == jpeg.APP1 and segment.data.startswith(jpeg.EXIF) and block is None:
                block = segment.data[len(jpeg.EXIF) :]
    else:
        chunks = webp.chunks(data)[0]
        index = webp.find(chunks, webp.EXIF)
        block = None if index is None else chunks[index].data.removeprefix(jpeg.EXIF)
    if block is not None:
        texts = {**exif.texts(block), **texts}
    packet = _xmp(data)
    return {**xmp.texts(packet), **texts} if packet else texts


def _xmp(data: bytes) -> bytes | None:
    kind = _format(data)
    if kind == "jpeg":
        segments = jpeg.segments(data)[0]
        index = jpeg.find(segments, jpeg.XMP)
        return None if index is None else segments[index].data[len(jpeg.XMP) :]
    if kind == "webp":
        chunks = webp.chunks(data)[0]
        index = webp.find(chunks, webp.XMP)
        return None if index is None else chunks[index].data
    for chunk in png.chunks(data)[0]:
        if png.keyword_of(chunk) == png.XMP and (text := png.as_text(chunk)):
            return text_encoding.encode_leniently(text.text, "utf-8")
    return None
