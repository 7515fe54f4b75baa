"""Texts and scores of picture files, whatever their format; a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import ImageError, ImageNotFoundError, InputError
from . import exif, infotext, jpeg, png, text_encoding, webp, xmp

T = TypeVar("T")
FORMATS = "PNG, JPEG and WebP"
_DAMAGED = (png.DamagedPng, jpeg.DamagedJpeg, webp.DamagedWebp, exif.DamagedExif, xmp.StrangeXmp)


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Names -> texts of a picture's metadata.

    PNG texts have their keywords, EXIF texts the names of their tags (UserComment, ...), XMP texts the names
    of their properties (dc:description, ...); a JPEG comment is "Comment". Bytes that cannot be decoded are
    lone surrogates.

    Raises:
        ImageError: no file there, not a PNG, JPEG or WebP file, or a damaged one.
    """
    return _guarded(path, _texts)


def check_key(key: str) -> str:
    """The name of a score, if it is one that every place takes: the WebUI's settings, PNG, and XML.

    Raises:
        InputError: it has other signs than ASCII letters, digits, spaces and ``-_.()/``, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 \-_.()/]{0,77}[A-Za-z0-9\-_.()/])?", key):
        raise InputError(
            "the name of a score is made of ASCII letters, digits, spaces and - _ . ( ) /, 79 at most: "
            f"got {key!r}"
        )
    return key


def read_score(path: str | os.PathLike[str], key: str) -> float | None:
    """The score that a picture carries under that key; None if it carries none. Errors: as read_texts."""

    def read(data: bytes) -> str | None:
        texts, packet = _texts(data), _xmp(data)
        settings = {name: infotext.get(texts.get(name, ""), key) for name in ("parameters", "UserComment")}
        own = texts.get(key) if _format(data) == "png" else None
        # A PNG that was made from a JPEG file may still hold that one's UserComment: it is never written to.
        found = (
            settings["parameters"],
            own,
            settings["UserComment"],
            xmp.get(packet, key) if packet else None,
        )
        return next((value for value in found if value is not None), None)

    check_key(key)
    value = _guarded(path, read)
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        raise ImageError(os.fspath(path), f"its {key!r} is no number: {value[:40]!r}") from None


def write_score(path: str | os.PathLike[str], key: str, score: float) -> None:
    """Write a score into a picture's metadata; pixels and all other metadata stay byte for byte.

    It goes where the picture already carries one under that key, else to the end of AUTOMATIC1111's settings
    ("parameters", or EXIF's UserComment), else to a text of its own (PNG) or a value in XMP (JPEG, WebP).
    The file's times and permissions stay.

    Raises:
        ImageError: no such file, another format, damaged, animated, read-only, no room, or changed meanwhile.
        InputError: not a key (see check_key).
    """
    check_key(key)
    target = os.path.realpath(path)  # a link goes on leading to the same file
    name = os.fspath(path)
    data = _read(name)
    before = os.stat(target)
    if not before.st_mode & stat.S_IWUSR or not os.access(target, os.W_OK):
        raise ImageError(name, "read-only")
    try:
        changed = _with_score(data, key, f"{score:.4f}")
    except (*_DAMAGED, struct.error, IndexError) as error:
        raise ImageError(name, str(error) or "damaged") from error
    if changed == data:
        return
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(target))
        with open(descriptor, "wb") as file:
            file.write(changed)
            file.flush()
            os.fsync(file.fileno())
        shutil.copystat(target, temporary)
        with contextlib.suppress(OSError, AttributeError):
            os.chown(temporary, before.st_uid, before.st_gid)
        now = os.stat(target)
        if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
            raise ImageError(name, "changed by something else meanwhile; left as it is")
        os.replace(temporary, target)
    except OSError as error:
        raise ImageError(name, f"cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageNotFoundError(name, "no such file") from error
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror}") from error


def _guarded(path: str | os.PathLike[str], read: Callable[[bytes], T]) -> T:
    name = os.fspath(path)
    data = _read(name)
    try:
        return read(data)
    except (*_DAMAGED, struct.error, IndexError) as error:
        raise ImageError(name, str(error) or "damaged") from error


def _format(data: bytes) -> str:
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise png.DamagedPng(
        "the file is empty (0 bytes)" if not data else f"metadata is known of {FORMATS} only"
    )


def _texts(data: bytes) -> dict[str, str]:
    kind, texts, block = _format(data), {}, None
    if kind == "png":
        for chunk in png.chunks(data)[0]:
            if (text := png.as_text(chunk)) is not None:
                texts.setdefault(text.keyword, text.text)
            elif chunk.kind == b"eXIf":
                block = chunk.data
    elif kind == "jpeg":
        for segment in jpeg.segments(data)[0]:
            if segment.marker == jpeg.COMMENT:
                texts.setdefault("Comment", text_encoding.decode_leniently(segment.data))
            elif segment.marker == jpeg.APP1 and segment.data.startswith(jpeg.EXIF) and block is None:
                block = segment.data[len(jpeg.EXIF) :]
    else:
        found = webp.chunks(data)[0]
        place = webp.find(found, webp.EXIF)
        block = None if place is None else found[place].data.removeprefix(jpeg.EXIF)
    if block is not None:
        texts = {**exif.texts(block), **texts}
    packet = _xmp(data)
    return {**xmp.texts(packet), **texts} if packet else texts


def _xmp(data: bytes) -> bytes | None:
    kind = _format(data)
    if kind == "jpeg":
        found = jpeg.segments(data)[0]
        place = jpeg.find(found, jpeg.XMP)
        return None if place is None else found[place].data[len(jpeg.XMP) :]
    if kind == "webp":
        found = webp.chunks(data)[0]
        place = webp.find(found, webp.XMP)
        return None if place is None else found[place].data
    texts = (png.as_text(chunk) for chunk in png.chunks(data)[0])
    return next(
        (
            text_encoding.encode_leniently(text.text, "utf-8")
            for text in texts
            if text and text.keyword == png.XMP
        ),
        None,
    )


def _with_score(data: bytes, key: str, value: str) -> bytes:
    texts, kind = _texts(data), _format(data)
    name = "parameters" if kind == "png" else "UserComment"
    settings = infotext.put(texts[name], key, value) if name in texts else None
    if kind == "png":
        found, rest = png.chunks(data)
        if settings is not None:
            found = png.put_text(found, name, settings)
        if settings is None or key in texts:
            found = png.put_text(found, key, value)
        return png.SIGNATURE + b"".join(map(bytes, found)) + rest
    packet = _xmp(data)
    own = packet is not None and xmp.get(packet, key) is not None
    if kind == "jpeg":
        found, rest = jpeg.segments(data)
        if settings is not None:
            block = found[jpeg.find(found, jpeg.EXIF)].data[len(jpeg.EXIF) :]
            found = jpeg.put(found, jpeg.EXIF, exif.with_user_comment(block, settings))
        if settings is None or own:
            found = jpeg.put(found, jpeg.XMP, xmp.put(packet, key, value))
        return data[:2] + b"".join(map(bytes, found)) + rest
    found, rest = webp.chunks(data)
    if webp.join(found) + rest != data:
        raise webp.DamagedWebp("its chunks are padded in an unusual way; left as it is")
    if settings is not None:
        stored = found[webp.find(found, webp.EXIF)].data
        prefix = jpeg.EXIF if stored.startswith(jpeg.EXIF) else b""
        found = webp.put(
            found, webp.EXIF, prefix + exif.with_user_comment(stored.removeprefix(prefix), settings)
        )
    if settings is None or own:
        found = webp.put(found, webp.XMP, xmp.put(packet, key, value))
    return webp.join(found) + rest
