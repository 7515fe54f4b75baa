"""Shards -> one file, a little at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..score_file import load_pyarrow, parquet_schema

ROW_GROUP = 65_536


def join(shards: Sequence[Path], out: Path, extension: str) -> None:
    """Write the rows of all shards, in order, to ``out``."""
    if extension == ".parquet":
        _join_parquet(shards, out)
        return
    with out.open("wb") as file:
        for i, shard in enumerate(shards):
            with shard.open("rb") as rows:
                if extension == ".csv" and i > 0:
                    rows.readline()  # each has the header
                shutil.copyfileobj(rows, file)


def _join_parquet(shards: Sequence[Path], out: Path) -> None:
    pyarrow = load_pyarrow()
    with pyarrow.parquet.ParquetWriter(out, parquet_schema()) as writer:
        for tables in _row_groups(shards):
            writer.write_table(pyarrow.concat_tables(tables), row_group_size=ROW_GROUP)


def _row_groups(shards: Sequence[Path]) -> Iterator[list]:
    """Tables of whole shards, ROW_GROUP rows or a little less together."""
    pyarrow = load_pyarrow()
    tables, rows = [], 0
    for shard in shards:
        table = pyarrow.parquet.read_table(shard)
        if tables and rows + len(table) > ROW_GROUP:
            yield tables
            tables, rows = [], 0
        tables.append(table)
        rows += len(table)
    yield tables
