"""JPEG as a list of segments before the first scan, and the rest."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..files.limits import MAX_IMAGE_CHUNKS

EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
APP0, APP1, APP11, COMMENT, SCAN = 0xE0, 0xE1, 0xEB, 0xFE, 0xDA
LARGEST = 65533  # bytes of a segment's content


class DamagedJpeg(ValueError):
    """A file that ends early, or a segment that would be too large."""


@dataclass(frozen=True)
class Segment:
    marker: int
    data: bytes
    fill: bytes = b""  # bytes 0xFF that may stand before a marker

    def __bytes__(self) -> bytes:
        if len(self.data) > LARGEST:
            raise DamagedJpeg(f"no room: a JPEG segment holds {LARGEST:,} bytes, its metadata needs more")
        return self.fill + bytes((0xFF, self.marker)) + struct.pack(">H", len(self.data) + 2) + self.data


def segments(data: bytes) -> tuple[list[Segment], bytes]:
    """The segments before the first scan, and everything from it on."""
    found: list[Segment] = []
    offset = 2
    while True:
        start = offset
        while data[offset : offset + 2] == b"\xff\xff":
            offset += 1
        if offset + 4 > len(data):
            raise DamagedJpeg("truncated: it ends before its pixels")
        if data[offset] != 0xFF:
            raise DamagedJpeg("damaged: no marker where a segment should begin")
        marker, (length,) = data[offset + 1], struct.unpack_from(">H", data, offset + 2)
        if marker == SCAN:
            return found, data[start:]
        if len(found) == MAX_IMAGE_CHUNKS.value:
            raise DamagedJpeg(f"it has more than {len(found):,} segments ({MAX_IMAGE_CHUNKS.advice})")
        end = offset + 2 + length
        if length < 2 or end > len(data):
            raise DamagedJpeg("truncated: it ends within a segment")
        found.append(Segment(marker, data[offset + 4 : end], data[start:offset]))
        offset = end


def find(found: list[Segment], prefix: bytes) -> int | None:
    """Place of the first APP1 segment that begins so."""
    return next((i for i, s in enumerate(found) if s.marker == APP1 and s.data.startswith(prefix)), None)


def put(found: list[Segment], prefix: bytes, content: bytes) -> list[Segment]:
    """The segments with that APP1 content, in its old place, else behind the leading APP0 and APP1."""
    index = find(found, prefix)
    if index is not None:
        changed = Segment(APP1, prefix + content, found[index].fill)
        return [*found[:index], changed, *found[index + 1 :]]
    index = next((i for i, s in enumerate(found) if s.marker not in (APP0, APP1)), len(found))
    return [*found[:index], Segment(APP1, prefix + content), *found[index:]]
