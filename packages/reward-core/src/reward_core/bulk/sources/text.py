"""Text manifests (CSV and JSON lines), which can be read from any row."""

from __future__ import annotations

import csv
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files.json_file import parse_json
from ...files.tables import too_long
from ..input_row import InputRow, input_row
from .base import STRIDE, Lines, LongLine, Source, check_columns, check_rows
from .csv_records import BadRecord, csv_records, first_record
from .csv_separator import separator_error

#: At least one of this many first rows of a CSV must have as many fields as the header.
CHECKED_ROWS = 1000
#: At least one of this many first records of JSON lines must have the columns, to detect misspelled names.
CHECKED_RECORDS = 100


class TextSource(Source, ABC):
    """The rows of a text file. The file is read once to count rows, store positions and compute a digest."""

    def __init__(self, path: Path, prompt_column: str, image_column: str, images: str):
        self.path, self.images = path, images
        self.prompt_column, self.image_column = prompt_column, image_column
        digest = hashlib.sha256()
        self.positions: list[tuple[int, int]] = []  # of every STRIDE-th row: byte position, lines before it
        self.rows = 0
        with path.open("rb") as file:
            begin = file.read(4)
            # Without a byte order mark, every other byte of English text is zero.
            if begin.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in begin:
                raise InputError(f"Cannot read '{path}': its encoding is UTF-16. Save it as UTF-8.")
            file.seek(0)
            lines = Lines(file, digest)
            self.begin(lines)
            end = lines.position, lines.number
            for following, _ in self.records(lines):
                if self.rows % STRIDE == 0:
                    self.positions.append(end)
                end = following
                self.rows += 1
        check_rows(path, self.rows)
        self.digest = digest.hexdigest()

    def read(self, start: int) -> Iterator[InputRow]:
        if start >= self.rows:
            return
        with self.path.open("rb") as file:
            position, number = self.positions[start // STRIDE]
            file.seek(position)
            lines = Lines(file, number=number)
            for _, record in islice(self.records(lines), start % STRIDE, None):
                yield self.to_row(record)

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.prompt_column, "image_column": self.image_column}
        images = os.path.realpath(self.images)
        return {
            "kind": self.path.suffix,
            "sha256": self.digest,
            "rows": self.rows,
            "images": images,
            **columns,
        }

    @abstractmethod
    def begin(self, lines: Lines) -> None:
        """Read the part before the rows. Raise InputError if a column is missing."""

    @abstractmethod
    def records(self, lines: Lines) -> Iterator[tuple[tuple[int, int], Any]]:
        """Yield, for each row, its end (byte position and line number) and a record that is cheap to make."""

    @abstractmethod
    def to_row(self, record: Any) -> InputRow:
        """Convert a record to a row."""


class CsvSource(TextSource):
    """The rows of a CSV file; a record that is not valid CSV becomes a row with an error."""

    def begin(self, lines: Lines) -> None:
        with self.path.open("rb") as file:
            error = separator_error(next(Lines(file), ""), (self.prompt_column, self.image_column))
        if error is not None:
            raise InputError(f"Cannot read '{self.path}': {error}.")
        try:
            header = first_record(lines)
        except csv.Error as error:
            reason = f"its header is not valid CSV: {error}"
            if "new-line" in str(error):
                reason = "its lines end with CR only. Save it with Unix or Windows line endings"
            raise InputError(f"Cannot read '{self.path}': {reason}.") from error
        check_columns(self.path, header, (self.prompt_column, self.image_column))
        self.columns = len(header)
        self.prompt_at, self.image_at = header.index(self.prompt_column), header.index(self.image_column)
        self._check_first_rows()

    def _check_first_rows(self) -> None:
        """Raise InputError if none of the first ``CHECKED_ROWS`` rows has as many fields as the header."""
        with self.path.open("rb") as file:
            lines = Lines(file)
            first_record(lines)
            first = [record for _, record in islice(self.records(lines), CHECKED_ROWS)]
        bad = [record for record in first if isinstance(record, BadRecord) or len(record) != self.columns]
        if len(bad) == CHECKED_ROWS:
            reason = bad[0] if isinstance(bad[0], BadRecord) else f"the first has {len(bad[0])}"
            raise InputError(
                f"Cannot read {str(self.path)!r}: none of its first {CHECKED_ROWS:,} rows has {self.columns} "
                f"fields as its header has ({reason}). Check its quotes and separators."
            )

    def records(self, lines: Lines) -> Iterator[tuple[tuple[int, int], list[str] | BadRecord]]:
        return csv_records(lines, self.columns, self.image_at)

    def to_row(self, record: list[str] | BadRecord) -> InputRow:
        if isinstance(record, BadRecord):
            return InputRow(None, "", None, record)
        if len(record) > self.columns:
            counts = f"the row has {len(record)} fields, the header {self.columns}"
            return InputRow(None, "", None, f"not a CSV row: {counts}; quote fields that contain commas")
        prompt, image = (record[i] if i < len(record) else None for i in (self.prompt_at, self.image_at))
        return input_row(prompt, image, self.images)


class JsonlSource(TextSource):
    """The rows of a file with one JSON object per line; blank lines are skipped."""

    def begin(self, lines: Lines) -> None:
        with self.path.open("rb") as file:
            records = [json_object(line) for _, line in islice(self.records(Lines(file)), CHECKED_RECORDS)]
        objects = [record for record in records if isinstance(record, dict)]
        if objects:
            columns = list(dict.fromkeys(key for record in objects for key in record))
            check_columns(self.path, columns, (self.prompt_column, self.image_column))

    def records(self, lines: Lines) -> Iterator[tuple[tuple[int, int], str]]:
        return (((lines.position, lines.number), line) for line in lines if _has_text(line))

    def to_row(self, record: str) -> InputRow:
        values = json_object(record)
        if isinstance(values, str):
            return InputRow(None, "", None, values)
        return input_row(values.get(self.prompt_column), values.get(self.image_column), self.images)


def _has_text(line: str) -> bool:
    return isinstance(line, LongLine) or not line.isspace()


def json_object(line: str) -> dict[str, Any] | str:
    """Return the JSON object in a line, or what is wrong with it."""
    if isinstance(line, LongLine):
        return f"not a line of JSON: {too_long()}"
    try:
        value = parse_json(line)
    except ValueError as error:
        return f"not a line of JSON: {error}"
    if not isinstance(value, dict):
        return f"the line is not a JSON object: got {type(value).__name__}"
    return value
