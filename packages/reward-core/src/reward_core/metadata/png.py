"""PNG files as a list of chunks, with text chunks (tEXt, zTXt, iTXt)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from ..files.limits import MAX_IMAGE_CHUNKS, MAX_METADATA_TEXT
from . import text_encoding

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP = "XML:com.adobe.xmp"  # keyword of the XMP text
TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
LONGEST_KEYWORD = 256  # bytes to search for the end of a keyword, which has at most 79


class TextBudget:
    """The number of unpacked bytes left for the texts of an image."""

    def __init__(self) -> None:
        self.most = self.left = MAX_METADATA_TEXT.value

    def spend(self, size: int) -> None:
        """Count a text.

        Raises:
            DamagedPng: all texts together are too long.
        """
        self.left -= size
        if self.left < 0:
            most = f"more than {self.most:,} bytes"
            raise DamagedPng(f"its texts unpack to {most} ({MAX_METADATA_TEXT.advice})")


@dataclass(frozen=True)
class Chunk:
    """A chunk of a PNG file."""

    kind: bytes
    data: bytes | memoryview
    checksum: bytes

    @classmethod
    def of(cls, kind: bytes, data: bytes) -> Chunk:
        return cls(kind, data, struct.pack(">I", zlib.crc32(kind + data)))

    def __bytes__(self) -> bytes:
        return struct.pack(">I", len(self.data)) + self.kind + self.data + self.checksum


@dataclass(frozen=True)
class Text:
    """A parsed text chunk.

    Attributes:
        kind: tEXt, zTXt or iTXt.
        keyword: keyword of the text.
        middle: stored bytes between keyword and text.
        text: the text.
        encoding: detected encoding; tEXt and zTXt should be Latin-1, but many programs write UTF-8.
    """

    kind: bytes
    keyword: str
    middle: bytes
    text: str
    encoding: str = "latin-1"

    def chunk(self) -> Chunk:
        keyword = self.keyword.encode("latin-1") + b"\0"
        if self.kind == b"tEXt":
            try:
                return Chunk.of(b"tEXt", keyword + self._encoded())
            except UnicodeEncodeError:
                return Chunk.of(b"iTXt", keyword + bytes(4) + self.text.encode())
        if self.kind == b"zTXt":
            return Chunk.of(b"zTXt", keyword + self.middle + zlib.compress(self._encoded()))
        packed = zlib.compress(self._encoded()) if self.middle[0] else self._encoded()
        return Chunk.of(b"iTXt", keyword + self.middle + packed)

    def _encoded(self) -> bytes:
        return text_encoding.encode_leniently(self.text, self.encoding)


class DamagedPng(ValueError):
    """A truncated file, or an animation."""


def chunks(data: bytes) -> tuple[list[Chunk], bytes]:
    """Return all chunks up to IEND, and the bytes after it."""
    result: list[Chunk] = []
    offset, view = len(SIGNATURE), memoryview(data)  # pixels are not copied
    most = MAX_IMAGE_CHUNKS.value
    while not result or result[-1].kind != b"IEND":
        if offset + 12 > len(data):
            raise DamagedPng("truncated: it ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise DamagedPng("truncated: it ends within a chunk")
        if len(result) == most:
            raise DamagedPng(f"it has more than {len(result):,} chunks ({MAX_IMAGE_CHUNKS.advice})")
        kind = data[offset + 4 : offset + 8]
        content = view[offset + 8 : end - 4] if kind == b"IDAT" else data[offset + 8 : end - 4]
        result.append(Chunk(kind, content, data[end - 4 : end]))
        offset = end
    if any(chunk.kind == b"acTL" for chunk in result):
        raise DamagedPng("it is an animation; scores are supported for single images only")
    return result, data[offset:]


def keyword_of(chunk: Chunk) -> str | None:
    """Return the keyword of a text chunk; None for other chunks."""
    if chunk.kind not in TEXT_KINDS:
        return None
    keyword, zero, _ = bytes(chunk.data[:LONGEST_KEYWORD]).partition(b"\0")
    return keyword.decode("latin-1") if zero else None


def as_text(chunk: Chunk, budget: TextBudget | None = None) -> Text | None:
    """Parse a text chunk; return None for other chunks and unreadable texts.

    Raises:
        DamagedPng: the texts of the image exceed the budget.
    """
    budget = budget or TextBudget()
    if chunk.kind not in TEXT_KINDS or len(chunk.data) > budget.most:
        return None
    keyword, zero, rest = bytes(chunk.data).partition(b"\0")
    try:
        if not zero:
            return None
        if chunk.kind == b"tEXt":
            middle, content = b"", rest
        elif chunk.kind == b"zTXt":
            middle, content = rest[:1], _unpacked(rest[1:])
        else:
            language = rest.index(b"\0", 2) + 1
            start = rest.index(b"\0", language) + 1
            middle, content = rest[:start], _unpacked(rest[start:]) if rest[0] else rest[start:]
    except (ValueError, IndexError, zlib.error):
        return None
    budget.spend(len(content))
    encoding = "utf-8" if chunk.kind == b"iTXt" else text_encoding.latin1_or_utf8(content)
    text = text_encoding.decode_leniently(content, encoding)
    return Text(chunk.kind, keyword.decode("latin-1"), middle, text, encoding)


def put_text(chunks: list[Chunk], keyword: str, text: str) -> list[Chunk]:
    """Return the chunks with a text that replaces an old one or is added.

    A new text is inserted before the pixels. Apple's iDOT chunk stores its distance to the pixels, so nothing
    is inserted between them.
    """
    before_pixels = next((i for i, chunk in enumerate(chunks) if chunk.kind in (b"iDOT", b"IDAT")), 1)
    first_pixels = next((i for i, chunk in enumerate(chunks) if chunk.kind == b"IDAT"), 1)
    for i, chunk in enumerate(chunks):
        old = as_text(chunk) if keyword_of(chunk) == keyword else None
        if old is not None:
            changed, others = replace(old, text=text).chunk(), [*chunks[:i], *chunks[i + 1 :]]
            index = before_pixels if before_pixels < i < first_pixels else i
            return [*others[:index], changed, *others[index:]]
    return [*chunks[:before_pixels], Text(b"tEXt", keyword, b"", text).chunk(), *chunks[before_pixels:]]


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, MAX_METADATA_TEXT.value)
    if unpacker.unconsumed_tail:
        raise ValueError("a text exceeds the limit for all texts")
    return content
