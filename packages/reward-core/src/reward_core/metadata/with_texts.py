"""Put a score and its notes into the bytes of an image file; every other byte keeps its value."""

from __future__ import annotations

from collections.abc import Mapping

from . import exif, infotext, jpeg, mpf, png, webp, xmp
from .tagged_image import _format, _texts, _xmp

_SIGNED = (
    "it carries signed content credentials (C2PA), and any change breaks the signature. Keep its score in a "
    "file: `reward-core score ... --out scores.csv`, then `reward-core sort ... --scores scores.csv`"
)


def with_score(data: bytes, key: str, value: str, notes: Mapping[str, str | None]) -> bytes:
    """Return the file with a score, and with notes about it.

    The score goes where the image already has one under that key, else to the end of AUTOMATIC1111's
    settings, else to a text of its own (PNG) or to XMP (JPEG, WebP). Notes always go to a text or to XMP.

    Args:
        data: the file.
        key: the name of the score.
        value: the score.
        notes: names and texts; None empties an old note and writes no new one.

    Raises:
        DamagedPng, DamagedJpeg, DamagedWebp, DamagedExif, StrangeXmp: the file cannot take the score.
    """
    write = {"png": _png, "jpeg": _jpeg, "webp": _webp}[_format(data)]
    texts = _texts(data)
    name = "parameters" if write is _png else "UserComment"
    settings = infotext.put(texts[name], key, value) if name in texts else None
    return write(data, key, value, settings, notes)


def _png(data: bytes, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]) -> bytes:
    found, rest = png.chunks(data)
    if any(chunk.kind == b"caBX" for chunk in found):
        raise png.DamagedPng(_SIGNED)
    texts, packet = _texts(data), _xmp(data) or b""
    if settings is not None:
        found = png.put_text(found, "parameters", settings)
    if settings is None or key in texts:
        found = png.put_text(found, key, value)
    for name, note in notes.items():
        if note is not None or texts.get(name) or xmp.get(packet, name):
            found = png.put_text(found, name, note or "")
    return png.SIGNATURE + b"".join(map(bytes, found)) + rest


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
    found, rest = webp.chunks(data)
    if any(chunk.kind == b"C2PA" for chunk in found):
        raise webp.DamagedWebp(_SIGNED)
    if webp.join(found) + rest != data:
        raise webp.DamagedWebp("its chunks are padded in an unusual way; left as it is")
    if settings is not None:
        index = webp.find(found, webp.EXIF)
        assert index is not None  # the settings were read from it
        stored = found[index].data
        prefix = jpeg.EXIF if stored.startswith(jpeg.EXIF) else b""
        block = exif.with_user_comment(stored.removeprefix(prefix), settings)
        found = webp.put(found, webp.EXIF, prefix + block)
    packet = _xmp(data)
    changed = _with_values(packet, key, value, settings, notes)
    if changed is not None and changed != packet:
        found = webp.put(found, webp.XMP, changed)
    return webp.join(found) + rest


def _with_values(
    packet: bytes | None, key: str, value: str, settings: str | None, notes: Mapping[str, str | None]
) -> bytes | None:
    """Return an XMP packet with the notes, and with the score where the settings do not take it."""
    if settings is None or (packet is not None and xmp.get(packet, key) is not None):
        packet = xmp.put(packet, key, value)
    for name, note in notes.items():
        if note is not None or (packet is not None and xmp.get(packet, name)):
            packet = xmp.put(packet, name, note or "")
    return packet
