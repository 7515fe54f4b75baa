"""Parquet manifests, read in small batches of their row groups."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files.parquet import load_pyarrow, rows_at_once
from ..input_row import InputRow, input_row
from .base import WHOLE_DIGEST_LIMIT, Source, check_columns, check_rows, file_digest


class ParquetSource(Source):
    """The rows of a Parquet file; images are paths, bytes, or structs of bytes and path.

    A row can only be reached by reading the rows before it in its row group. So a read that starts a little
    after the previous one ended, such as that of a worker's next shard, continues the previous one.
    """

    def __init__(self, path: Path, prompt_column: str, image_column: str, images: str):
        self.path, self.images = path, images
        self.prompt_column, self.image_column = prompt_column, image_column
        with self._open() as file:
            check_columns(path, file.schema_arrow.names, (prompt_column, image_column))
            # If all images are bytes, the folder of images does not matter.
            types, kind = load_pyarrow().types, file.schema_arrow.field(image_column).type
            self.by_path = not (types.is_binary(kind) or types.is_large_binary(kind))
            groups = range(file.metadata.num_row_groups)
            self.group_rows = [file.metadata.row_group(i).num_rows for i in groups]
        self.rows = sum(self.group_rows)
        check_rows(path, self.rows)
        self._last: tuple[int, Iterator[InputRow]] | None = None

    def read(self, start: int) -> Iterator[InputRow]:
        """Yield the rows from index ``start``. This ends any iterator returned before."""
        position, rows = self._last or (-1, iter(()))
        if not (0 <= position <= start and self._group_of(position) == self._group_of(start)):
            position, rows = self._first_row(self._group_of(start)), self._from_group(self._group_of(start))
        for _ in range(start - position):
            next(rows)
        for number, row in enumerate(rows, start=start + 1):
            self._last = (number, rows)
            yield row

    def fingerprint(self) -> dict[str, Any]:
        size = self.path.stat().st_size
        if size <= WHOLE_DIGEST_LIMIT:
            identity: dict[str, Any] = {"sha256": file_digest(self.path)}
        else:
            with self.path.open("rb") as file:
                file.seek(-8, 2)
                length = int.from_bytes(file.read(4), "little")
                file.seek(-8 - length, 2)
                footer = hashlib.sha256(file.read(length)).hexdigest()
            identity = {
                "footer_sha256": footer,
                "bytes": size,
                "modified_ns": self.path.stat().st_mtime_ns,
            }
        if self.by_path:
            identity["images"] = os.path.realpath(self.images)
        columns = {"prompt_column": self.prompt_column, "image_column": self.image_column}
        return {"kind": ".parquet", **identity, "rows": self.rows, **columns}

    def _open(self):
        parquet = load_pyarrow().parquet
        try:
            # With a buffer, pages are read when they are needed, not whole columns of a row group at once.
            return parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"Cannot read '{self.path}' as Parquet: {str(error).rstrip('.')}.")

    def _group_of(self, row: int) -> int:
        for group, rows in enumerate(self.group_rows):
            if row < rows:
                return group
            row -= rows
        return len(self.group_rows)

    def _first_row(self, group: int) -> int:
        return sum(self.group_rows[:group])

    def _from_group(self, group: int) -> Iterator[InputRow]:
        columns = [self.prompt_column, self.image_column]
        number = self._first_row(group)
        with self._open() as file:
            for i in range(group, len(self.group_rows)):
                size = rows_at_once(file, i, columns)
                batches = file.iter_batches(size, row_groups=[i], columns=columns)
                while (batch := self._next(batches)) is not None:
                    prompts, images = batch.column(columns[0]), batch.column(columns[1])
                    for prompt, image in zip(prompts, images):
                        yield self._row(prompt, image, f"row {number}")
                        number += 1

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _row(self, prompt: Any, image: Any, name: str) -> InputRow:
        try:
            return input_row(_value(prompt), _value(image), self.images, name)
        except (ValueError, OverflowError) as error:  # a time out of range, invalid UTF-8 in a list
            return InputRow(None, name, None, f"cannot read a value: {error}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def _value(cell: Any) -> Any:
    """Return the value of a pyarrow scalar; invalid UTF-8 becomes surrogates, as in other manifests."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        if hasattr(cell, "as_buffer"):
            return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        if hasattr(cell, "items"):  # a struct
            return {name: _value(part) for name, part in cell.items()}
        raise
