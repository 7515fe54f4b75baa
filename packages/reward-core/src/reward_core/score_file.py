"""Rows of scores as a file: CSV, JSON, JSON lines or Parquet, by the file's extension."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
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

    The bytes of a file name that are no UTF-8 appear as "\\udc.." escapes (which JSON turns back), also where
    an error has the name in it.

    Args:
        first: the number of the first row.
    """
    records = [{"row": i, **asdict(row)} for i, row in enumerate(rows, start=first)]
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pyarrow = load_pyarrow()
            for record in records:
                for name in ("image", "error"):
                    record[name] = record[name] and record[name].encode(errors="backslashreplace").decode()
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


def read_outcomes(path: Path) -> list[tuple[int, str | None]]:
    """(row, error) of each row of a .csv, .jsonl or .parquet that ``write_rows`` wrote.

    Raises:
        ValueError: it is damaged, cut off, or of another kind. OSError: it cannot be read.
    """
    if path.suffix == ".parquet":
        pyarrow = load_pyarrow()
        with pyarrow.parquet.ParquetFile(path) as file:
            if not file.schema_arrow.equals(parquet_schema()):
                raise ValueError(f"columns {', '.join(file.schema_arrow.names)}, not {', '.join(COLUMNS)}")
            table = file.read(["row", "error"])
        return list(zip(table["row"].to_pylist(), table["error"].to_pylist()))
    text = path.read_bytes().decode("utf-8")
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    return _csv_outcomes(text) if path.suffix == ".csv" else _jsonl_outcomes(text)


def _csv_outcomes(text: str) -> list[tuple[int, str | None]]:
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a prompt may be of any length
    try:
        header, *records = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(limit)
    for record in (header, *records):
        if len(record) != len(COLUMNS):
            raise ValueError(f"a row of {len(record)} fields, not {len(COLUMNS)}")
    if tuple(header) != COLUMNS:
        raise ValueError(f"columns {', '.join(header)}, not {', '.join(COLUMNS)}")
    return [(int(record[0]), record[-1] or None) for record in records]


def _jsonl_outcomes(text: str) -> list[tuple[int, str | None]]:
    outcomes = []
    for line in text.removesuffix("\n").split("\n"):
        record = json.loads(line)
        if not isinstance(record, dict) or tuple(record) != COLUMNS:
            raise ValueError(f"a line that is not a row of scores: {line:.80}")
        outcomes.append((record["row"], record["error"]))
    return outcomes


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
