"""pyarrow, or an error that says how to install it; small tables read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .tables import TableBudget

ROWS_AT_ONCE = 64


def load_pyarrow():
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
        columns: their names; default: all.

    Raises:
        ValueError: the rows hold more than a table may; a few bytes can stand for many equal cells.
    """
    budget = TableBudget()
    rows: list[dict[str, Any]] = []
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
        budget.take(batch.num_rows * (8 + batch.num_columns), batch.nbytes)
        rows += batch.to_pylist()
    return rows
