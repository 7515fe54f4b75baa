"""JPEG files as a list of segments before the first scan, and the remaining bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..files.limits import MAX_IMAGE_CHUNKS

EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
APP0, APP1, APP11, COMMENT, SCAN = 0xE0, 0xE1, 0xEB, 0xFE, 0xDA
LARGEST = 65533  # bytes of a segment's content


class DamagedJpeg(ValueError):
    """A truncated file, or a segment that would be too large."""


@dataclass(frozen=True)
class Segment:
    """A segment with its marker."""

    marker: int
    data: bytes
    fill: bytes = b""  # optional bytes 0xFF before the marker

    def __bytes__(self) -> bytes:
        if len(self.data) > LARGEST:
            raise DamagedJpeg(
                f"no room: its metadata needs more than the {LARGEST:,} bytes of a JPEG segment"
            )
        return self.fill + bytes((0xFF, self.marker)) + struct.pack(">H", len(self.data) + 2) + self.data


def segments(data: bytes) -> tuple[list[Segment], bytes]:
    """Return the segments before the first scan, and the remaining bytes."""
    result: list[Segment] = []
    offset = 2
    while True:
        start = offset
        while data[offset : offset + 2] == b"\xff\xff":
            offset += 1
        if offset + 4 > len(data):
            raise DamagedJpeg("truncated: it ends before its pixels")
        if data[offset] != 0xFF:
            raise DamagedJpeg("damaged: a segment does not begin with a marker")
        marker, (length,) = data[offset + 1], struct.unpack_from(">H", data, offset + 2)
        if marker == SCAN:
            return result, data[start:]
        if len(result) == MAX_IMAGE_CHUNKS.value:
            raise DamagedJpeg(f"it has more than {len(result):,} segments ({MAX_IMAGE_CHUNKS.advice})")
        end = offset + 2 + length
        if length < 2 or end > len(data):
            raise DamagedJpeg("truncated: it ends within a segment")
        result.append(Segment(marker, data[offset + 4 : end], data[start:offset]))
        offset = end


def find(segments: list[Segment], prefix: bytes) -> int | None:
    """Return the index of the first APP1 segment with a prefix, or None."""
    return next((i for i, s in enumerate(segments) if s.marker == APP1 and s.data.startswith(prefix)), None)


def put(segments: list[Segment], prefix: bytes, content: bytes) -> list[Segment]:
    """Return the segments with new content in the APP1 segment that has a prefix.

    A new segment is inserted after the leading APP0 and APP1 segments.
    """
    index = find(segments, prefix)
    if index is not None:
        changed = Segment(APP1, prefix + content, segments[index].fill)
        return [*segments[:index], changed, *segments[index + 1 :]]
    index = next((i for i, s in enumerate(segments) if s.marker not in (APP0, APP1)), len(segments))
    return [*segments[:index], Segment(APP1, prefix + content), *segments[index:]]
