"""Import of pyarrow, and reading of small Parquet tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .tables import TableBudget

ROWS_AT_ONCE = 64


def load_pyarrow():
    """Import and return pyarrow.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Cannot read or write a .parquet file: pyarrow is not installed. Run `pip install pyarrow`."
        ) from error
    return pyarrow


def read_cells(file: Any, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of an opened Parquet file.

    Args:
        file: a `pyarrow.parquet.ParquetFile`.
        columns: names of the columns (default: all).

    Raises:
        ValueError: the table has too many values; a few bytes can encode many equal cells.
    """
    budget = TableBudget()
    rows: list[dict[str, Any]] = []
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
        budget.take(batch.num_rows * (8 + batch.num_columns), batch.nbytes)
        rows += batch.to_pylist()
    return rows
