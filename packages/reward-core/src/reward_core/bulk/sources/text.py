"""Manifests of text, read line by line from any row on."""

from __future__ import annotations

import csv
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..input_row import InputRow, input_row
from .base import STRIDE, Lines, check_columns, check_rows

#: Among so many first records of JSON lines, one must have the columns; a misspelt name is told at once.
LOOKED_AT = 100


class TextSource(ABC):
    """Looks through the file once, to count its rows, note where they begin, and take its digest."""

    def __init__(self, path: Path, prompt_column: str, image_column: str, images: str):
        self.path, self.images = path, images
        self.prompt_column, self.image_column = prompt_column, image_column
        digest = hashlib.sha256()
        self.positions: list[int] = []
        self.rows = 0
        with path.open("rb") as file:
            lines = Lines(file, digest)
            self.begin(lines)
            position = lines.position
            for _ in self.records(lines):
                if self.rows % STRIDE == 0:
                    self.positions.append(position)
                position = lines.position
                self.rows += 1
        check_rows(path, self.rows)
        self.digest = digest.hexdigest()

    def read(self, start: int) -> Iterator[InputRow]:
        if start >= self.rows:
            return
        with self.path.open("rb") as file:
            file.seek(self.positions[start // STRIDE])
            for record in islice(self.records(Lines(file)), start % STRIDE, None):
                yield self.to_row(record)

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.prompt_column, "image_column": self.image_column}
        return {"kind": self.path.suffix, "sha256": self.digest, "rows": self.rows, **columns}

    @abstractmethod
    def begin(self, lines: Lines) -> None:
        """Read what comes before the rows, and raise InputError if the columns are not there."""

    @abstractmethod
    def records(self, lines: Lines) -> Iterator[Any]:
        """One item a row, cheap to make."""

    @abstractmethod
    def to_row(self, record: Any) -> InputRow: ...


class CsvSource(TextSource):
    """Fields by position; a record that the csv module refuses is given as its error."""

    def begin(self, lines: Lines) -> None:
        header = next(csv.reader(lines), [])
        check_columns(self.path, header, (self.prompt_column, self.image_column))
        self.prompt_at, self.image_at = header.index(self.prompt_column), header.index(self.image_column)

    def records(self, lines: Lines) -> Iterator[list[str] | csv.Error]:
        reader = csv.reader(lines)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield error
                continue
            if record:  # a blank line is no row
                yield record

    def to_row(self, record: list[str] | csv.Error) -> InputRow:
        if isinstance(record, csv.Error):
            return InputRow(None, "", None, f"not a CSV row: {record}")
        prompt, image = (record[i] if i < len(record) else None for i in (self.prompt_at, self.image_at))
        return input_row(prompt, image, self.images)


class JsonlSource(TextSource):
    """An object a line; blank lines are no rows."""

    def begin(self, lines: Lines) -> None:
        with self.path.open("rb") as file:
            found = [json_object(line) for line in islice(self.records(Lines(file)), LOOKED_AT)]
        objects = [record for record in found if isinstance(record, dict)]
        if objects:
            columns = list(dict.fromkeys(key for record in objects for key in record))
            check_columns(self.path, columns, (self.prompt_column, self.image_column))

    def records(self, lines: Lines) -> Iterator[str]:
        return (line for line in lines if line.strip())

    def to_row(self, record: str) -> InputRow:
        found = json_object(record)
        if isinstance(found, str):
            return InputRow(None, "", None, found)
        return input_row(found.get(self.prompt_column), found.get(self.image_column), self.images)


def json_object(line: str) -> dict[str, Any] | str:
    """The object in a line, or what is wrong with it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not a line of JSON: {error}"
    if not isinstance(found, dict):
        return f"the line is no JSON object: got {type(found).__name__}"
    return found
