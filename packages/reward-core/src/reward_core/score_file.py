"""Rows of scores as a file: CSV, JSON, JSON lines or Parquet, by the file's extension."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from .errors import InputError
from .scorer import ScoredRow
from .whole_file import whole_file

COLUMNS = ("row", "prompt", "image", "score", "error")
EXTENSIONS = (".csv", ".json", ".jsonl", ".parquet")


def check_writable(path: Path) -> None:
    """Raise InputError, before any work is done, if ``write_rows`` could not write there."""
    if path.suffix not in EXTENSIONS:
        raise InputError(f"{path}: the extension must be one of {', '.join(EXTENSIONS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written (a folder, or in a folder that does not exist)")
    if path.suffix == ".parquet":
        load_pyarrow()


def write_rows(rows: Sequence[ScoredRow], path: Path, first: int = 0) -> None:
    """Write row, prompt, image, score, error of each row; the file appears whole or not at all.

    The bytes of a file name that are no UTF-8 appear as "\\udc.." escapes (which JSON turns back).

    Args:
        first: the number of the first row.
    """
    records = [{"row": i, **asdict(row)} for i, row in enumerate(rows, start=first)]
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pyarrow = load_pyarrow()
            for record in records:
                record["image"] = record["image"].encode(errors="backslashreplace").decode()
            table = pyarrow.Table.from_pylist(records, parquet_schema())
            pyarrow.parquet.write_table(table, temporary)
        elif path.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(records)
        else:
            if path.suffix == ".json":
                text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
            else:
                text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def read_outcomes(path: Path) -> Iterator[tuple[int, str | None]]:
    """(row, error) of each row of a .csv, .jsonl or .parquet that ``write_rows`` wrote."""
    if path.suffix == ".parquet":
        table = load_pyarrow().parquet.read_table(path, columns=["row", "error"])
        yield from zip(table["row"].to_pylist(), table["error"].to_pylist())
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                yield int(record["row"]), record["error"] or None
    else:
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                yield record["row"], record["error"]


def parquet_schema():
    pyarrow = load_pyarrow()
    kinds = (pyarrow.int64(), pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.string())
    return pyarrow.schema(list(zip(COLUMNS, kinds)))


def load_pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError('a .parquet file needs pyarrow: pip install "reward-core[parquet]"') from error
    return pyarrow
