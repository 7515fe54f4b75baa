"""Import of pyarrow, and reading of small Parquet tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError, not_installed
from .limits import MB
from .tables import TableBudget

ROWS_AT_ONCE = 64
# Bytes of the cells that are decoded at once. A few bytes can encode 64 equal images of a gigabyte.
CELLS_AT_ONCE = 256 * MB


def load_pyarrow():
    """Import and return pyarrow.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"Cannot read or write a .parquet file: {not_installed('parquet', 'pyarrow')}"
        ) from error
    return pyarrow


def rows_at_once(file: Any, group: int, columns: Sequence[str] | None = None) -> int:
    """Return how many rows of a row group to decode at once.

    A cell is at most as large as its column in the row group, in which equal cells are stored once.

    Args:
        file: a `pyarrow.parquet.ParquetFile`.
        group: number of the row group.
        columns: names of the columns that are decoded (default: all).
    """
    row_group = file.metadata.row_group(group)
    chunks = [row_group.column(i) for i in range(row_group.num_columns)]
    wanted = [c for c in chunks if columns is None or c.path_in_schema.split(".")[0] in columns]
    largest = sum(max(0, chunk.total_uncompressed_size) for chunk in wanted)
    return max(1, min(ROWS_AT_ONCE, CELLS_AT_ONCE // max(1, largest)))


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
    for group in range(file.metadata.num_row_groups):
        size = rows_at_once(file, group, columns)
        for batch in file.iter_batches(size, row_groups=[group], columns=columns):
            budget.take(batch.num_rows * (8 + batch.num_columns), batch.nbytes)
            rows += batch.to_pylist()
    return rows
