"""Join shards into one file without loading all of them, and verify their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.parquet import load_pyarrow
from ..files.score_file import parquet_schema

ROW_GROUP = 65_536


def join(shards: Sequence[tuple[Path, str]], out: Path, extension: str, scorers: Sequence[str]) -> None:
    """Write the rows of all shards, in order, to one file.

    Args:
        shards: path and SHA-256 of each shard.
        out: the file to write.
        extension: ".csv", ".jsonl" or ".parquet".
        scorers: names of the scorers.

    Raises:
        OutputError: a shard changed after it was written.
    """
    if extension == ".parquet":
        _join_parquet(shards, out, scorers)
        return
    with out.open("wb") as file:
        for i, (shard, sha256) in enumerate(shards):
            content = _checked(shard, sha256)
            if extension == ".csv" and i > 0:
                content = content[content.index(b"\n") + 1 :]  # without the header
            file.write(content)


def _checked(shard: Path, sha256: str) -> bytes:
    content = shard.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OutputError(
            f"Cannot join the scores: '{shard}' was changed after it was written. "
            "Run the same command again: it scores the rows of this shard again and keeps the other shards."
        )
    return content


def _join_parquet(shards: Sequence[tuple[Path, str]], out: Path, scorers: Sequence[str]) -> None:
    pyarrow = load_pyarrow()
    with pyarrow.parquet.ParquetWriter(out, parquet_schema(scorers)) as writer:
        for tables in _row_groups(shards):
            writer.write_table(pyarrow.concat_tables(tables), row_group_size=ROW_GROUP)


def _row_groups(shards: Sequence[tuple[Path, str]]) -> Iterator[list]:
    """Yield lists of tables of whole shards, with at most ROW_GROUP rows together if possible."""
    pyarrow = load_pyarrow()
    tables: list[Any] = []
    rows = 0
    for shard, sha256 in shards:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(_checked(shard, sha256)))
        if tables and rows + len(table) > ROW_GROUP:
            yield tables
            tables, rows = [], 0
        tables.append(table)
        rows += len(table)
    yield tables
