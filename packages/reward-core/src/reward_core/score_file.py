"""Rows of scores as a file: CSV, JSON or Parquet, by the file's extension."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .errors import InputError
from .scorer import ScoredRow

COLUMNS = ("row", "prompt", "image", "score", "error")
EXTENSIONS = (".csv", ".json", ".parquet")


def check_writable(path: Path) -> None:
    """Raise InputError, before any work is done, if ``write_rows`` could not write there."""
    if path.suffix not in EXTENSIONS:
        raise InputError(f"{path}: the extension must be one of {', '.join(EXTENSIONS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written (a folder, or in a folder that does not exist)")
    if path.suffix == ".parquet":
        _pyarrow()


def write_rows(rows: Sequence[ScoredRow], path: Path) -> None:
    """Write row, prompt, image, score, error of each row; the file appears whole or not at all.

    The bytes of a file name that are no UTF-8 appear as "\\udc.." escapes (which JSON turns back).
    """
    records = [{"row": i, **asdict(row)} for i, row in enumerate(rows)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            pyarrow = _pyarrow()
            kinds = (pyarrow.int64(), pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.string())
            schema = pyarrow.schema(list(zip(COLUMNS, kinds)))
            for record in records:
                record["image"] = record["image"].encode(errors="backslashreplace").decode()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema), temporary)
        elif path.suffix == ".json":
            text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(records)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError('a .parquet file needs pyarrow: pip install "reward-core[parquet]"') from error
    return pyarrow
