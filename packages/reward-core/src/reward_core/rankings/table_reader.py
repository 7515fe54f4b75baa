"""Read rows of JSON, JSON lines, CSV and Parquet files; images in a table are not loaded."""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, not_installed
from ..files.json_file import parse_json, read_json
from ..files.parquet import read_cells
from ..files.tables import TableBudget, bounded_lines, open_table, table_lines
from .stored_images import ParquetImage

LINES = (".jsonl", ".ndjson")
EXTENSIONS = (".json", *LINES, ".csv", ".parquet")


@dataclass(frozen=True)
class Rows:
    """The rows of a source.

    Attributes:
        name: name of the source in errors.
        unit: name of a row in errors: "row", "record" or "line".
        columns: all column names that occur.
        rows: (number, cells by column).
        regular: whether every row has all columns.
    """

    name: str
    unit: str
    columns: Sequence[str]
    rows: Iterable[tuple[int, Mapping[str, Any]]]
    regular: bool = True

    def where(self, number: int) -> str:
        """Return the name of a row in errors, such as "line 3 of 'pairs.csv'"."""
        return f"{self.unit} {number} of '{self.name}'"


def read_rows(path: Path) -> Rows:
    """Return the rows of a .json, .jsonl, .ndjson, .csv or .parquet file.

    Raises:
        InputError: the file cannot be read or is empty, or a record is not an object; the message names it.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".csv":
        return _csv(path)
    records = _lines(path) if path.suffix in LINES else _json(path)
    unit = "line" if path.suffix in LINES else "record"
    columns = dict.fromkeys(key for _, record in records for key in record)
    return Rows(str(path), unit, list(columns), records, regular=False)


def _json(path: Path) -> list[tuple[int, Any]]:
    content = read_json(path, error=InputError)
    if content == []:
        raise InputError(f"Cannot read '{path}': it has no records.")
    if not isinstance(content, list):
        raise InputError(f"Cannot read '{path}': expected a list of records, got {reprlib.repr(content)}.")
    return [(i, _object(path, "record", i, record)) for i, record in enumerate(content)]


def _object(path: Path, unit: str, number: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError(f"Cannot read '{path}': {unit} {number} is not an object: {reprlib.repr(record)}.")
    return record


def _lines(path: Path) -> list[tuple[int, Any]]:
    records, budget, number = [], TableBudget(), 0
    try:
        with open_table(path) as file:
            for line in bounded_lines(file):
                if line.strip():
                    record = parse_json(line, budget)
                    records.append((number + 1, _object(path, "line", number + 1, record)))
                number += 1
    except InputError:
        raise
    except ValueError as error:  # invalid JSON, invalid UTF-8, or too large
        raise InputError(f"Cannot read '{path}': line {number + 1} is not valid JSON ({error}).") from error
    if not records:
        raise InputError(f"Cannot read '{path}': expected a JSON object on each line, got an empty file.")
    return records


def _csv(path: Path) -> Rows:
    try:
        with open_table(path, "utf-8-sig", newline="") as file:
            reader = csv.DictReader(table_lines(file), strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (csv.Error, ValueError) as error:  # invalid CSV, invalid UTF-8, or too large
        raise InputError(f"Cannot read '{path}' as CSV: {error}.") from error
    if not rows:
        raise InputError(f"Cannot read '{path}': expected a header and rows below it, got no rows.")
    for i, row in rows:
        if None in row or None in row.values():
            raise InputError(f"Cannot read '{path}': line {i} and the header differ in the number of cells.")
    return Rows(str(path), "line", columns, rows)


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"Cannot read '{path}': {not_installed('parquet', 'pyarrow')}") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            images = [field.name for field in schema if holds_images(field.type)]
            plain = [field.name for field in schema if field.name not in images]
            cells = read_cells(file, plain)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"Cannot read '{path}' as Parquet: {str(error).rstrip('.')}.") from error
    if not cells:
        raise InputError(f"Cannot read '{path}': it has no rows.")
    lists = [name for name in images if is_list(schema.field(name).type)]
    lengths = {name: _lengths(path, name) for name in lists}
    for row, record in enumerate(cells):
        for name in images:
            if name in lengths:
                record[name] = [ParquetImage(path, name, row, i) for i in range(lengths[name][row])]
            else:
                record[name] = ParquetImage(path, name, row)
    return Rows(str(path), "row", schema.names, list(enumerate(cells)))


def holds_images(kind: Any) -> bool:
    """Return whether an Arrow type is bytes, {"bytes", "path"} (the format of the hub), or a list of them."""
    from pyarrow import types

    if is_list(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is a list."""
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind)


def _lengths(path: Path, column: str) -> list[int]:
    """Return the number of images in each cell of a column of lists."""
    import pyarrow.compute
    import pyarrow.parquet

    lengths = []
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            cells = file.read_row_group(group, columns=[column]).column(column)
            lengths += [n or 0 for n in pyarrow.compute.list_value_length(cells).to_pylist()]
    return lengths
