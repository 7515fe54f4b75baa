"""Pointers inside a JPEG file to the images and videos behind its first image.

A JPEG file can hold more than one image: the second view of an MPO file, a gain map, a depth map, the video
of a motion photo. Two indexes say where they are. The Multi-Picture Format (CIPA DC-007) stores sizes and
offsets from its own TIFF header. Google's container directory (XMP) stores lengths. Both become wrong when
the metadata before the first image grows, so ``moved`` corrects them.
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
    """One image of the index."""

    at: int  # of the entry in the segment's data
    size: int
    offset: int  # from the TIFF header; 0 for the first image


def moved(data: bytes, old: list[Segment], new: list[Segment], rest: bytes) -> list[Segment]:
    """Return the new segments with every pointer behind them corrected.

    Args:
        data: the file as it was.
        old: its segments.
        new: the segments to be written in their place.
        rest: the bytes behind the segments, which move as a whole.

    Raises:
        DamagedJpeg: the index is damaged, or points at something that is not an image.
    """
    header_end = len(data) - len(rest)
    primary = _primary_length(old)
    growth = None
    while growth != (growth := sum(len(bytes(segment)) for segment in new) - (header_end - 2)):
        if primary:
            new = _with_primary_length(new, primary + growth)
    for (index, start), (rank, new_start) in zip(_mpf_starts(old).items(), _mpf_starts(new).items()):
        shift = growth - (new_start - start)
        if growth or shift:
            content = _with_entries_moved(old[index].data, data, start, header_end, growth, shift)
            new = [*new[:rank], replace(new[rank], data=content), *new[rank + 1 :]]
    return new


def _mpf_starts(segments: list[Segment]) -> dict[int, int]:
    """Index of each MPF segment -> position of its TIFF header in the file."""
    starts, position = {}, 2
    for i, segment in enumerate(segments):
        if segment.marker == APP2 and segment.data.startswith(PREFIX):
            starts[i] = position + len(segment.fill) + 4 + len(PREFIX)
        position += len(bytes(segment))
    return starts


def _with_entries_moved(
    content: bytes, data: bytes, start: int, header_end: int, growth: int, shift: int
) -> bytes:
    """Return an MPF segment whose first image grew, and whose other images moved."""
    order, entries = _entries(content)
    changed = bytearray(content)
    for number, entry in enumerate(entries):
        if entry.offset == 0:
            if number == 0 and entry.size:
                struct.pack_into(order + "I", changed, entry.at + 4, entry.size + growth)
            continue
        target = start + entry.offset
        if target >= len(data):
            continue  # another program cut that image off, and left the index
        if target < header_end or data[target : target + 2] != b"\xff\xd8":
            raise DamagedJpeg(
                f"its MPF index puts image {number + 1} at byte {target:,}, where no image begins; writing "
                "could make that image unreadable. Save the file again with the program that made it"
            )
        struct.pack_into(order + "I", changed, entry.at + 8, entry.offset + shift)
    return bytes(changed)


def _entries(content: bytes) -> tuple[str, list[_Entry]]:
    """Return the byte order of an MPF segment and its entries; none in an index without images."""
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
                ranks = range(first, first + length - length % _ENTRY_SIZE, _ENTRY_SIZE)
                found = [(rank, *struct.unpack_from(order + "4xII4x", tiff, rank)) for rank in ranks]
                return order, [_Entry(len(PREFIX) + at, size, offset) for at, size, offset in found]
    except struct.error as error:
        raise DamagedJpeg("its MPF index is cut off") from error
    return order, []


def _primary_length(segments: list[Segment]) -> int:
    """Return the length that the container directory gives for the first image; 0 if it gives none."""
    found = _primary_length_match(segments)
    return 0 if found is None else int(found[2])


def _primary_length_match(segments: list[Segment]) -> re.Match[bytes] | None:
    rank = find(segments, XMP)
    packet = b"" if rank is None else segments[rank].data
    primary = _PRIMARY.search(packet)
    if primary is None:
        return None
    start, end = packet.rfind(b"<rdf:li", 0, primary.start()), packet.find(b"</rdf:li", primary.end())
    return None if start < 0 or end < 0 else _LENGTH.search(packet, start, end)


def _with_primary_length(segments: list[Segment], length: int) -> list[Segment]:
    found, rank = _primary_length_match(segments), find(segments, XMP)
    assert found is not None  # the packet gives a length, see _primary_length
    assert rank is not None
    packet = segments[rank].data
    packet = packet[: found.start(2)] + b"%d" % length + packet[found.end(2) :]
    return [*segments[:rank], replace(segments[rank], data=packet), *segments[rank + 1 :]]
