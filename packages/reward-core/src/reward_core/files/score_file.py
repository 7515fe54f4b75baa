"""Score files: CSV, JSON, JSON lines or Parquet, depending on the extension."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .atomic_write import atomic_write
from .parquet import load_pyarrow

COLUMNS = ("row", "prompt", "image", "score", "error")
EXTENSIONS = (".csv", ".json", ".jsonl", ".parquet")


def check_writable(path: Path) -> None:
    """Raise InputError if ``write_rows`` cannot write to a path."""
    if path.suffix not in EXTENSIONS:
        raise InputError(f"Cannot write scores to '{path}': the extension must be {' or '.join(EXTENSIONS)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(
            f"Cannot write scores to '{path}': it is a folder, or its folder does not exist. Choose "
            "another file."
        )
    if path.suffix == ".parquet":
        load_pyarrow()


def write_rows(rows: Sequence[ScoredRow], path: Path, first: int = 0) -> None:
    """Write row, prompt, image, score, error of each row to a file, atomically.

    Args:
        rows: the rows.
        path: the file; its extension is the format.
        first: number of the first row.
    """
    with atomic_write(path) as temporary:
        write_rows_as(path.suffix, rows, temporary, first)


def write_rows_as(extension: str, rows: Sequence[ScoredRow], path: Path, first: int = 0) -> None:
    """Write rows to a file of any name, in the format of an extension.

    Bytes of a file name that are not UTF-8 are written as "\\udc.." escapes (which JSON decodes), also in
    errors that contain the name.
    """
    records = [{"row": i, **vars(row)} for i, row in enumerate(rows, start=first)]
    if extension == ".parquet":
        pyarrow = load_pyarrow()
        for record in records:
            for name in ("image", "error"):
                record[name] = record[name] and record[name].encode(errors="backslashreplace").decode()
        table = pyarrow.Table.from_pylist(records, parquet_schema())
        pyarrow.parquet.write_table(table, path)
    elif extension == ".csv":
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(records)
    else:
        if extension == ".json":
            text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
        else:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def parquet_schema():
    pyarrow = load_pyarrow()
    kinds = (pyarrow.int64(), pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.string())
    return pyarrow.schema(list(zip(COLUMNS, kinds)))


@dataclass(frozen=True)
class ScoredRow:
    """Result of a (prompt, image) pair in a long run: a score or an error.

    ``prompt`` is None if the error is a missing prompt.
    """

    prompt: str | None
    image: str
    score: float | None
    error: str | None = None
