"""Add a score and its notes to the bytes of an image file, without other changes."""

from __future__ import annotations

from collections.abc import Mapping

from . import exif, infotext, jpeg, mpf, png, webp, xmp
from .tagged_image import _format, _texts, _xmp

_SIGNED = (
    "it has signed content credentials (C2PA), and any change breaks the signature. Write its score to a "
    "file instead: `reward-core score ... --out scores.csv`, then `reward-core sort ... --scores scores.csv`"
)


def with_score(data: bytes, key: str, value: str, notes: Mapping[str, str | None]) -> bytes:
    """Return the file with a score and notes about it.

    The score replaces an old one with the same key. Otherwise it is added to the end of AUTOMATIC1111's
    settings, or else as a new text (PNG) or XMP value (JPEG, WebP). Notes are always texts or XMP values.

    Args:
        data: content of the file.
        key: name of the score.
        value: the score.
        notes: texts by name; None clears an old note and does not add a new one.

    Raises:
        DamagedPng, DamagedJpeg, DamagedWebp, DamagedExif, StrangeXmp: the score cannot be added.
    """
    write = {"png": _png, "jpeg": _jpeg, "webp": _webp}[_format(data)]
    texts = _texts(data)
    name = "parameters" if write is _png else "UserComment"
    settings = infotext.put(texts[name], key, value) if name in texts else None
    return write(data, key, value, settings, notes)


def _png(data: bytes, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]) -> bytes:
    chunks, rest = png.chunks(data)
    if any(chunk.kind == b"caBX" for chunk in chunks):
        raise png.DamagedPng(_SIGNED)
    texts, packet = _texts(data), _xmp(data) or b""
    if settings is not None:
        chunks = png.put_text(chunks, "parameters", settings)
    if settings is None or key in texts:
        chunks = png.put_text(chunks, key, value)
    for name, note in notes.items():
        if note is not None or texts.get(name) or xmp.get(packet, name):
            chunks = png.put_text(chunks, name, note or "")
    return png.SIGNATURE + b"".join(map(bytes, chunks)) + rest


def _jpeg(data: bytes, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]) -> bytes:
    old, rest = jpeg.segments(data)
    if any(segment.marker == jpeg.APP11 and b"c2pa" in segment.data for segment in old):
        raise jpeg.DamagedJpeg(_SIGNED)
    new = old
    if settings is not None:
        index = jpeg.find(old, jpeg.EXIF)
        assert index is not None  # the settings were read from it
        block = old[index].data[len(jpeg.EXIF) :]
        new = jpeg.put(new, jpeg.EXIF, exif.with_user_comment(block, settings))
    packet = _xmp(data)
    changed = _with_values(packet, key, value, settings, notes)
    if changed is not None and changed != packet:
        new = jpeg.put(new, jpeg.XMP, changed)
    new = mpf.moved(data, old, new, rest)
    return data[:2] + b"".join(map(bytes, new)) + rest


def _webp(data: bytes, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]) -> bytes:
    chunks, rest = webp.chunks(data)
    if any(chunk.kind == b"C2PA" for chunk in chunks):
        raise webp.DamagedWebp(_SIGNED)
    if webp.join(chunks) + rest != data:
        raise webp.DamagedWebp("its chunks have unusual padding, so the file was not changed")
    if settings is not None:
        index = webp.find(chunks, webp.EXIF)
        assert index is not None  # the settings were read from it
        stored = chunks[index].data
        prefix = jpeg.EXIF if stored.startswith(jpeg.EXIF) else b""
        block = exif.with_user_comment(stored.removeprefix(prefix), settings)
        chunks = webp.put(chunks, webp.EXIF, prefix + block)
    packet = _xmp(data)
    changed = _with_values(packet, key, value, settings, notes)
    if changed is not None and changed != packet:
        chunks = webp.put(chunks, webp.XMP, changed)
    return webp.join(chunks) + rest


def _with_values(
    packet: bytes | None, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]
) -> bytes | None:
    """Return an XMP packet with the notes, and the score if not in the settings."""
    if settings is None or (packet is not None and xmp.get(packet, key) is not None):
        packet = xmp.put(packet, key, value)
    for name, note in notes.items():
        if note is not None or (packet is not None and xmp.get(packet, name)):
            packet = xmp.put(packet, name, note or "")
    return packet
