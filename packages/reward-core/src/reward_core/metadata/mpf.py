"""Pointers inside a JPEG file to the images and videos after its first image.

A JPEG file can contain more than one image: the second view of an MPO file, a gain map, a depth map, the
video of a motion photo. Two indexes store their positions. The Multi-Picture Format (CIPA DC-007) stores
sizes and offsets relative to its TIFF header. Google's container directory (XMP) stores lengths. Both become
wrong when the metadata of the first image grows, so ``moved`` corrects them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

from .jpeg import XMP, DamagedJpeg, Segment, find

PREFIX, APP2 = b"MPF\0", 0xE2
_ENTRIES_TAG, _ENTRY_SIZE = 0xB002, 16
_PRIMARY = re.compile(rb"""Semantic(?:\s*=\s*["']|\s*>\s*)Primary\b""")
_LENGTH = re.compile(rb"""(:Length(?:\s*=\s*["']|\s*>\s*))(\d{1,18})(?!\d)""")


@dataclass(frozen=True)
class _Entry:
    """The entry of an image in the index."""

    at: int  # position of the entry in the data of the segment
    size: int
    offset: int  # from the TIFF header; 0 for the first image


def moved(data: bytes, old: list[Segment], new: list[Segment], rest: bytes) -> list[Segment]:
    """Return the new segments with corrected pointers to the bytes after them.

    Args:
        data: content of the old file.
        old: segments of the old file.
        new: segments that replace them.
        rest: bytes after the segments, which move as a whole.

    Raises:
        DamagedJpeg: the index is damaged, or points at something that is not an image.
    """
    header_end = len(data) - len(rest)
    primary = _primary_length(old)
    growth = None
    while growth != (growth := sum(len(bytes(segment)) for segment in new) - (header_end - 2)):
        if primary:
            new = _with_primary_length(new, primary + growth)
    for (index, start), (new_index, new_start) in zip(_mpf_starts(old).items(), _mpf_starts(new).items()):
        shift = growth - (new_start - start)
        if growth or shift:
            content = _with_entries_moved(old[index].data, data, start, header_end, growth, shift)
            new = [*new[:new_index], replace(new[new_index], data=content), *new[new_index + 1 :]]
    return new


def _mpf_starts(segments: list[Segment]) -> dict[int, int]:
    """Return the file position of the TIFF header of each MPF segment, by index."""
    starts, position = {}, 2
    for i, segment in enumerate(segments):
        if segment.marker == APP2 and segment.data.startswith(PREFIX):
            starts[i] = position + len(segment.fill) + 4 + len(PREFIX)
        position += len(bytes(segment))
    return starts


def _with_entries_moved(
    content: bytes, data: bytes, start: int, header_end: int, growth: int, shift: int
) -> bytes:
    """Return an MPF segment for a larger first image and moved other images."""
    order, entries = _entries(content)
    changed = bytearray(content)
    for number, entry in enumerate(entries):
        if entry.offset == 0:
            if number == 0 and entry.size:
                struct.pack_into(order + "I", changed, entry.at + 4, entry.size + growth)
            continue
        target = start + entry.offset
        if target >= len(data):
            continue  # another program removed the image but not its entry
        if target < header_end or data[target : target + 2] != b"\xff\xd8":
            raise DamagedJpeg(
                f"its MPF index points to image {number + 1} at byte {target:,}, where no image begins. "
                "Writing could make that image unreadable. Save the file again with the program that made it"
            )
        struct.pack_into(order + "I", changed, entry.at + 8, entry.offset + shift)
    return bytes(changed)


def _entries(content: bytes) -> tuple[str, list[_Entry]]:
    """Return the byte order and the entries of an MPF segment."""
    tiff = content[len(PREFIX) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise DamagedJpeg("its MPF index is damaged: it does not begin as a TIFF file")
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, _, length, first = struct.unpack_from(order + "HHII", tiff, at)
            if tag == _ENTRIES_TAG:
                positions = range(first, first + length - length % _ENTRY_SIZE, _ENTRY_SIZE)
                values = [(p, *struct.unpack_from(order + "4xII4x", tiff, p)) for p in positions]
                return order, [_Entry(len(PREFIX) + p, size, offset) for p, size, offset in values]
    except struct.error as error:
        raise DamagedJpeg("its MPF index is cut off") from error
    return order, []


def _primary_length(segments: list[Segment]) -> int:
    """Return the length of the first image in the container directory, or 0."""
    match = _primary_length_match(segments)
    return 0 if match is None else int(match[2])


def _primary_length_match(segments: list[Segment]) -> re.Match[bytes] | None:
    index = find(segments, XMP)
    packet = b"" if index is None else segments[index].data
    primary = _PRIMARY.search(packet)
    if primary is None:
        return None
    start, end = packet.rfind(b"<rdf:li", 0, primary.start()), packet.find(b"</rdf:li", primary.end())
    return None if start < 0 or end < 0 else _LENGTH.search(packet, start, end)


def _with_primary_length(segments: list[Segment], length: int) -> list[Segment]:
    match, index = _primary_length_match(segments), find(segments, XMP)
    assert match is not None  # the packet has a length, see _primary_length
    assert index is not None
    packet = segments[index].data
    packet = packet[: match.start(2)] + b"%d" % length + packet[match.end(2) :]
    return [*segments[:index], replace(segments[index], data=packet), *segments[index + 1 :]]
