"""WebP as a list of RIFF chunks. Metadata needs the extended form, whose header (VP8X) says what is there."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..files.limits import MAX_IMAGE_CHUNKS

ALPHA, EXIF_FLAG, XMP_FLAG, ANIMATION = 0x10, 0x08, 0x04, 0x02
EXIF, XMP = b"EXIF", b"XMP "
_FLAGS = {EXIF: EXIF_FLAG, XMP: XMP_FLAG}


class DamagedWebp(ValueError):
    """A file that ends early, or holds an animation."""


@dataclass(frozen=True)
class Chunk:
    kind: bytes
    data: bytes

    def __bytes__(self) -> bytes:
        return self.kind + struct.pack("<I", len(self.data)) + self.data + b"\0" * (len(self.data) % 2)


def chunks(data: bytes) -> tuple[list[Chunk], bytes]:
    """The chunks of the RIFF container, and what stands behind it."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise DamagedWebp(f"truncated: {len(data):,} of {end:,} bytes")
    found: list[Chunk] = []
    offset = 12
    while offset + 8 <= end:
        (length,) = struct.unpack_from("<I", data, offset + 4)
        if offset + 8 + length > end:
            raise DamagedWebp("damaged: a chunk ends outside the file")
        if len(found) == MAX_IMAGE_CHUNKS.value:
            raise DamagedWebp(f"it has more than {len(found):,} chunks ({MAX_IMAGE_CHUNKS.advice})")
        found.append(Chunk(data[offset : offset + 4], data[offset + 8 : offset + 8 + length]))
        offset += 8 + length + length % 2
    if any(chunk.kind == b"ANIM" for chunk in found):
        raise DamagedWebp("an animation: one score cannot say which of its images is meant")
    return found, data[end:]


def join(found: list[Chunk]) -> bytes:
    body = b"WEBP" + b"".join(map(bytes, found))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def find(found: list[Chunk], kind: bytes) -> int | None:
    return next((i for i, chunk in enumerate(found) if chunk.kind == kind), None)


def put(found: list[Chunk], kind: bytes, content: bytes) -> list[Chunk]:
    """The chunks with that metadata, in its old place, else at the end; the header says so."""
    if found[0].kind != b"VP8X":
        found = [_extended_header(found[0]), *found]
    flags = bytes([found[0].data[0] | _FLAGS[kind]])
    found = [Chunk(b"VP8X", flags + found[0].data[1:]), *found[1:]]
    offset = find(found, kind)
    if offset is not None:
        return [*found[:offset], Chunk(kind, content), *found[offset + 1 :]]
    return [*found, Chunk(kind, content)]


def _extended_header(image: Chunk) -> Chunk:
    """VP8X for a file that had none: its size, and whether it is transparent."""
    if image.kind == b"VP8 " and image.data[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", image.data, 6))
        flags = 0
    elif image.kind == b"VP8L" and image.data[:1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", image.data, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = ALPHA if bits >> 28 & 1 else 0
    else:
        raise DamagedWebp(f"damaged: its first chunk is {image.kind!r}, no image")
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return Chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sizes)
