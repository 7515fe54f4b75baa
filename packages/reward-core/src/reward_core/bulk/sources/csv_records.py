"""Records of a CSV, one a row; a quote that is not closed costs its own line, not the rows after it.

A file can open a quote in every line and close none. Lines that were read for such a record are read again
as rows of their own; how much is read again is bounded for each STRIDE records, where reading can begin.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from ...files.tables import too_long
from ...inputs.image_formats import is_image_name
from .base import STRIDE, Lines, LongLine

#: Bytes of lines that may be read again for each STRIDE records: eight fields of the csv module's longest.
READ_AGAIN = 8 << 17
_OPEN_QUOTE = "a quote that is opened there is not closed, or not where a field ends"
#: What a line costs beside its bytes.
LINE_COST = 32


class BadRecord(str):
    """In place of a record: what is wrong with it."""


def csv_records(
    lines: Lines, columns: int, image_at: int
) -> Iterator[tuple[tuple[int, int], list[str] | BadRecord]]:
    """Where each record ends, in bytes and as its last line's number, and its fields.

    Args:
        lines: those behind the header.
        columns: how many the header has.
        image_at: which of them is the image's.
    """
    taken = _Taken(lines)
    reader = csv.reader(taken, strict=True)
    count = 0
    while True:
        taken.begin_record()
        if count % STRIDE == 0:
            taken.read_again = READ_AGAIN
        record: list[str] | BadRecord
        try:
            record = fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = taken.only_first(str(error))
        else:
            if len(taken.lines) > 1 and _has_rows_in_it(fields, columns, image_at):
                record = taken.only_first()
        if record:  # a blank line is no row
            count += 1
            yield taken.lines[-1][1:], record


def first_record(lines: Lines) -> list[str]:
    """Return the fields of a file's first record, its header; none where the file is empty.

    Raises:
        csv.Error: it is not CSV, or it is longer than a line may be.
    """
    taken = _Taken(lines)
    taken.begin_record()
    return next(csv.reader(taken, strict=True), [])


class _Taken:
    """Lines for the csv module, with those that it took for its record; some can be given back."""

    def __init__(self, source: Lines):
        self.source = source
        self.lines: list[tuple[str, int, int]] = []  # text, end in bytes, number
        self.back: deque[tuple[str, int, int]] = deque()
        self.read_again = READ_AGAIN  # what may still be given back
        self.size = 0  # of the record's lines

    def begin_record(self) -> None:
        self.lines.clear()
        self.size = 0

    def __iter__(self) -> _Taken:
        return self

    def __next__(self) -> str:
        if self.back:
            line = self.back.popleft()
        else:
            text = next(self.source)
            line = text, self.source.position, self.source.number
        first = not self.lines
        self.lines.append(line)
        self.size += len(line[0])
        if isinstance(line[0], LongLine) or self.size > self.source.most:
            raise csv.Error(too_long())
        if not first and self._cost() > self.read_again:
            raise csv.Error(_OPEN_QUOTE)
        return line[0]

    def _cost(self) -> int:
        """What it would cost to read all but the record's first line again."""
        return self.size - len(self.lines[0][0]) + LINE_COST * (len(self.lines) - 1)

    def only_first(self, error: str = "") -> BadRecord:
        """Give all but the record's first line back: they are read as rows of their own."""
        self.read_again -= self._cost()
        first, *others = self.lines
        self.back.extendleft(reversed(others))
        self.lines = [first]
        if others or error == "unexpected end of data":  # the csv module's words for an open quote
            error = _OPEN_QUOTE
        return BadRecord(f"not a CSV row: line {first[2]}: {error}")


def _has_rows_in_it(record: list[str], columns: int, image_at: int) -> bool:
    """Whether a record of several lines looks as if a quote that should have been closed took in other rows.

    Prompts of several lines are right; lines with an image's name just where a row has its own are not.
    """
    if len(record) != columns:
        return True
    for number, field in enumerate(record):
        if "\n" not in field:
            continue
        begins_at = number
        for line in field.split("\n"):
            cells = line.split(",")
            at = image_at - begins_at
            if len(cells) > 1 and 0 <= at < len(cells) and _names_image(cells[at]):
                return True
            begins_at = 0
    return False


def _names_image(cell: str) -> bool:
    return is_image_name(cell.strip(' "\r'))
