"""WebP files as a list of RIFF chunks.

Metadata needs the extended format, whose header (VP8X) has a flag for each kind of metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..files.limits import MAX_IMAGE_CHUNKS

ALPHA, EXIF_FLAG, XMP_FLAG, ANIMATION = 0x10, 0x08, 0x04, 0x02
EXIF, XMP = b"EXIF", b"XMP "
_FLAGS = {EXIF: EXIF_FLAG, XMP: XMP_FLAG}


class DamagedWebp(ValueError):
    """A truncated file, or an animation."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of a RIFF file."""

    kind: bytes
    data: bytes

    def __bytes__(self) -> bytes:
        return self.kind + struct.pack("<I", len(self.data)) + self.data + b"\0" * (len(self.data) % 2)


def chunks(data: bytes) -> tuple[list[Chunk], bytes]:
    """Return the chunks of the RIFF container, and the bytes after it."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise DamagedWebp(f"truncated: {len(data):,} of {end:,} bytes")
    result: list[Chunk] = []
    offset = 12
    while offset + 8 <= end:
        (length,) = struct.unpack_from("<I", data, offset + 4)
        if offset + 8 + length > end:
            raise DamagedWebp("damaged: a chunk ends outside the file")
        if len(result) == MAX_IMAGE_CHUNKS.value:
            raise DamagedWebp(f"it has more than {len(result):,} chunks ({MAX_IMAGE_CHUNKS.advice})")
        result.append(Chunk(data[offset : offset + 4], data[offset + 8 : offset + 8 + length]))
        offset += 8 + length + length % 2
    if any(chunk.kind == b"ANIM" for chunk in result):
        raise DamagedWebp("it is an animation; scores are supported for single images only")
    return result, data[end:]


def join(chunks: list[Chunk]) -> bytes:
    """Return the RIFF file with these chunks."""
    body = b"WEBP" + b"".join(map(bytes, chunks))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def find(chunks: list[Chunk], kind: bytes) -> int | None:
    """Return the index of the first chunk of a kind, or None."""
    return next((i for i, chunk in enumerate(chunks) if chunk.kind == kind), None)


def put(chunks: list[Chunk], kind: bytes, content: bytes) -> list[Chunk]:
    """Return the chunks with metadata that replaces an old chunk or is appended.

    The flag in the header is set.
    """
    if chunks[0].kind != b"VP8X":
        chunks = [_extended_header(chunks[0]), *chunks]
    flags = bytes([chunks[0].data[0] | _FLAGS[kind]])
    chunks = [Chunk(b"VP8X", flags + chunks[0].data[1:]), *chunks[1:]]
    index = find(chunks, kind)
    if index is not None:
        return [*chunks[:index], Chunk(kind, content), *chunks[index + 1 :]]
    return [*chunks, Chunk(kind, content)]


def _extended_header(image: Chunk) -> Chunk:
    """Return a VP8X header for a file without one."""
    if image.kind == b"VP8 " and image.data[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", image.data, 6))
        flags = 0
    elif image.kind == b"VP8L" and image.data[:1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", image.data, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = ALPHA if bits >> 28 & 1 else 0
    else:
        raise DamagedWebp(f"damaged: its first chunk is {image.kind!r}, not an image")
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return Chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sizes)
