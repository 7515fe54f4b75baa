"""Parse CSV so that a quote that is not closed affects only its own line.

Lines that the csv module consumed for such a record are given back and parsed again as separate rows. A file
could open a quote in every line, so the number of bytes parsed again is limited for each STRIDE records, the
points from which reading can start.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from ...files.tables import too_long
from ...inputs.image_formats import is_image_name
from .base import STRIDE, Lines, LongLine

#: Bytes that may be parsed again for each STRIDE records: eight times the csv module's longest field.
READ_AGAIN = 8 << 17
_OPEN_QUOTE = "a quote opened in this line is not closed, or not at the end of a field"
#: Cost of a line besides its bytes.
LINE_COST = 32


class BadRecord(str):
    """The error of a record that cannot be parsed."""


def csv_records(
    lines: Lines, columns: int, image_at: int
) -> Iterator[tuple[tuple[int, int], list[str] | BadRecord]]:
    """Yield the end of each record (byte position, line number) and its fields or its error.

    Args:
        lines: the lines after the header.
        columns: number of columns in the header.
        image_at: index of the image column.
    """
    record_lines = _RecordLines(lines)
    reader = csv.reader(record_lines, strict=True)
    count = 0
    while True:
        record_lines.begin_record()
        if count % STRIDE == 0:
            record_lines.read_again = READ_AGAIN
        record: list[str] | BadRecord
        try:
            record = fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = record_lines.only_first(str(error))
        else:
            if len(record_lines.lines) > 1 and _contains_other_rows(fields, columns, image_at):
                record = record_lines.only_first()
        if record:  # blank lines are skipped
            count += 1
            yield record_lines.lines[-1][1:], record


def first_record(lines: Lines) -> list[str]:
    """Return the fields of a file's first record, the header; an empty list if the file is empty.

    Raises:
        csv.Error: the record is not valid CSV, or it is too long.
    """
    record_lines = _RecordLines(lines)
    record_lines.begin_record()
    return next(csv.reader(record_lines, strict=True), [])


class _RecordLines:
    """An iterator of lines for the csv module that can give back lines of the current record."""

    def __init__(self, source: Lines):
        self.source = source
        self.lines: list[tuple[str, int, int]] = []  # text, end in bytes, number
        self.back: deque[tuple[str, int, int]] = deque()
        self.read_again = READ_AGAIN  # bytes that may still be given back
        self.size = 0  # characters in the record's lines

    def begin_record(self) -> None:
        self.lines.clear()
        self.size = 0

    def __iter__(self) -> _RecordLines:
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
        if isinstance(line[0], LongLine) or self.size > self.source.limit:
            raise csv.Error(too_long())
        if not first and self._cost() > self.read_again:
            raise csv.Error(_OPEN_QUOTE)
        return line[0]

    def _cost(self) -> int:
        """Return the cost of parsing all but the record's first line again."""
        return self.size - len(self.lines[0][0]) + LINE_COST * (len(self.lines) - 1)

    def only_first(self, error: str = "") -> BadRecord:
        """Give back all but the record's first line, and return the error of that line."""
        self.read_again -= self._cost()
        first, *others = self.lines
        self.back.extendleft(reversed(others))
        self.lines = [first]
        if others or error == "unexpected end of data":  # the csv module's message for an open quote
            error = _OPEN_QUOTE
        return BadRecord(f"not a CSV row: line {first[2]}: {error}")


def _contains_other_rows(record: list[str], columns: int, image_at: int) -> bool:
    """Return whether a record of several lines seems to contain other rows, because of an open quote.

    A prompt may have several lines. But if a line has an image's name at the position of the image column,
    it counts as a row.
    """
    if len(record) != columns:
        return True
    for number, field in enumerate(record):
        if "\n" not in field:
            continue
        first_column = number
        for line in field.split("\n"):
            cells = line.split(",")
            index = image_at - first_column
            if len(cells) > 1 and 0 <= index < len(cells) and _names_image(cells[index]):
                return True
            first_column = 0
    return False


def _names_image(cell: str) -> bool:
    return is_image_name(cell.strip(' "\r'))
