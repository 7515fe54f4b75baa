"""EXIF: read texts, and replace the UserComment without moving any other byte.

EXIF is a TIFF file: directories of 12-byte entries. Values longer than 4 bytes are stored outside the entry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..files.limits import MAX_EXIF_ENTRIES, MAX_METADATA_TEXT
from . import text_encoding

EXIF_DIRECTORY, USER_COMMENT = 0x8769, 0x9286
ASCII_TAGS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software"}
WINDOWS_TAGS = {0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9F: "XPSubject"}  # UTF-16, little-endian
BYTE, ASCII, UNDEFINED, UTF8 = 1, 2, 7, 129
UNICODE, PLAIN, JIS = b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0"


class DamagedExif(ValueError):
    """An EXIF block that is not TIFF, or has offsets outside the block."""


@dataclass(frozen=True)
class Entry:
    """An entry of a directory."""

    tag: int
    kind: int
    count: int
    position: int  # position of the entry in the block
    offset: int  # position of the value in the block


def texts(block: bytes) -> dict[str, str]:
    """Return the non-empty texts by EXIF name (ImageDescription, UserComment, ...).

    Bytes that cannot be decoded become lone surrogates.
    """
    result = {}
    order, entries = _entries(block)
    by_name = {name: entry for entry in entries if (name := _name_of(entry))}  # the last of duplicates
    for name, entry in by_name.items():
        if entry.count > MAX_METADATA_TEXT.value:
            raise DamagedExif(f"its {name} has {entry.count:,} bytes ({MAX_METADATA_TEXT.advice})")
        raw = block[entry.offset : entry.offset + entry.count]
        if name == "UserComment":
            result[name] = _comment(raw, order)[0]
        else:
            encoding = "utf-16-le" if entry.tag in WINDOWS_TAGS else None
            result[name] = text_encoding.decode_leniently(raw, encoding)
    return {name: text for name, text in result.items() if text.strip()}


def _name_of(entry: Entry) -> str | None:
    """Return the name of a text entry; None for other entries."""
    if entry.tag in ASCII_TAGS and entry.kind in (ASCII, UTF8):
        return ASCII_TAGS[entry.tag]
    if entry.tag in WINDOWS_TAGS and entry.kind == BYTE:
        return WINDOWS_TAGS[entry.tag]
    return "UserComment" if entry.tag == USER_COMMENT else None


def with_user_comment(block: bytes, text: str) -> bytes:
    """Return the block with a new text in its UserComment, which must exist.

    A longer text is appended to the block, a shorter one overwrites the old. Nothing else moves.
    """
    order, entries = _entries(block)
    entry = next(entry for entry in entries if entry.tag == USER_COMMENT)
    raw = block[entry.offset : entry.offset + entry.count]
    new = _encoded(text, *_comment(raw, order)[1:])
    value_end = entry.offset + entry.count
    if value_end == len(block) and entry.count > 4:
        offset, changed = entry.offset, block[: entry.offset] + new
    elif len(new) <= entry.count:
        offset, changed = entry.offset, block[: entry.offset] + new + block[entry.offset + len(new) :]
    else:
        offset = len(block) + len(block) % 2
        changed = block.ljust(offset, b"\0") + new
    header = struct.pack(order + "HHII", USER_COMMENT, UNDEFINED, len(new), offset)
    return changed[: entry.position] + header + changed[entry.position + 12 :]


def _entries(block: bytes) -> tuple[str, list[Entry]]:
    """Return the byte order and the entries of the first and the EXIF directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise DamagedExif("its EXIF block does not begin as a TIFF file")
    try:
        (first,) = struct.unpack_from(order + "I", block, 4)
        entries, seen = _directory(block, order, first), {first}
        for entry in list(entries):
            if entry.tag == EXIF_DIRECTORY:
                (position,) = struct.unpack_from(order + "I", block, entry.position + 8)
                if position not in seen:  # a directory can point at itself
                    seen.add(position)
                    entries += _directory(block, order, position)
                    _check_count(len(entries))
    except struct.error as error:
        raise DamagedExif("its EXIF block is cut off") from error
    return order, entries


def _directory(block: bytes, order: str, position: int) -> list[Entry]:
    (count,) = struct.unpack_from(order + "H", block, position)
    _check_count(count)
    entries = []
    for at in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind, number, offset = struct.unpack_from(order + "HHII", block, at)
        if kind in (BYTE, ASCII, UNDEFINED, UTF8):  # one byte each
            offset = at + 8 if number <= 4 else offset
            # Maker notes often point outside the block after a program moved them. They are not read.
            if offset + number > len(block) and (tag in ASCII_TAGS or tag == USER_COMMENT):
                raise DamagedExif("an entry of its EXIF block points outside")
        entries.append(Entry(tag, kind, number, at, offset))
    return entries


def _check_count(entries: int) -> None:
    if entries > MAX_EXIF_ENTRIES.value:
        raise DamagedExif(
            f"its EXIF block has more than {MAX_EXIF_ENTRIES.value:,} entries ({MAX_EXIF_ENTRIES.advice})"
        )


def _comment(raw: bytes, order: str) -> tuple[str, bytes, str]:
    """Return (text, character code, encoding) of a UserComment."""
    code, content = raw[:8], raw[8:]
    if code == UNICODE:
        encoding = _unicode_encoding(content, order)
    elif code == JIS:
        encoding = text_encoding.japanese_encoding(content)
    else:
        if code not in (PLAIN, bytes(8)):
            code, content = b"", raw  # no character code
        encoding = text_encoding.encoding_of(content) or "utf-8"
    return text_encoding.decode_leniently(content, encoding), code, encoding


def _unicode_encoding(content: bytes, order: str) -> str:
    """Return the encoding: UTF-16 by the standard, UTF-8 in many programs."""
    if b"\0" not in content.rstrip(b"\0") and text_encoding.encoding_of(content) == "utf-8":
        return "utf-8"
    marks = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
    if content[:2] in marks:
        return marks[content[:2]]
    even, odd = content[0::2].count(0), content[1::2].count(0)  # most texts have more zeros on one side
    little = odd > even if odd != even else order == "<"
    return "utf-16-le" if little else "utf-16-be"


def _encoded(text: str, code: bytes, encoding: str) -> bytes:
    return code + text_encoding.encode_leniently(text, encoding)
