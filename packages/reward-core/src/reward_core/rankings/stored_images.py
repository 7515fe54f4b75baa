"""Images in zips and tables, which are read only when they are opened."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import threading
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..files.foreign_bytes import read_regular
from ..files.limits import MAX_IMAGE_FILE_BYTES
from ..inputs.image_file import StoredImage, file_state

_lock = threading.Lock()


@dataclass(frozen=True)
class ZippedImage(StoredImage):
    """An image in a zip; ``member`` is its full name in the zip."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        return f"{self.archive}/{self.member}"

    def read(self) -> bytes:
        archive = _open_zip(_key(self.archive))
        size = archive.getinfo(self.member).file_size
        if size > MAX_IMAGE_FILE_BYTES.value:
            raise ImageError(self.name, f"would unpack to {size:,} bytes ({MAX_IMAGE_FILE_BYTES.advice})")
        # In parts: `archive.read` holds the packed and the unpacked bytes at once, or a copy of the latter.
        content = io.BytesIO()
        with archive.open(self.member) as file:
            shutil.copyfileobj(file, content, 2**20)
        return content.getvalue()

    def state(self) -> tuple[str | int, ...]:
        info = _open_zip(_key(self.archive)).getinfo(self.member)
        return (f"{info.file_size} {info.CRC:08x}",)


@dataclass(frozen=True)
class ParquetImage(StoredImage):
    """An image in a cell of a Parquet file, as bytes or as {"bytes", "path"} (the format of the hub).

    Reading a cell reads its row group, and the last few row groups stay in memory. So reading in the order of
    the file is fast, and other orders are slow.

    Attributes:
        file: the Parquet file.
        column: name of the column.
        row: index of the row.
        item: index in the cell's list; None if the cell is not a list.
    """

    file: Path
    column: str
    row: int
    item: int | None = None

    @property
    def name(self) -> str:
        return _cell_name(str(self.file), self.column, self.row, self.item)

    @property
    def location(self) -> tuple[str, int]:
        return str(self.file), self.row

    def read(self) -> bytes:
        key = _key(self.file)
        _, starts = _open_parquet(key)
        group = max(i for i, start in enumerate(starts) if start <= self.row)
        with _lock:  # Parquet files are not thread-safe, and two threads would read the same group twice.
            cells = _row_group(key, group, self.column)
        return _bytes(self, cells[self.row - starts[group]].as_py(), self.item, self.file.parent)

    def state(self) -> tuple[str | int, ...]:
        return file_state(self.file)


@dataclass(frozen=True)
class ReadImage(StoredImage):
    """An image whose file has been read."""

    label: str
    content: bytes

    @property
    def name(self) -> str:
        return self.label

    def read(self) -> bytes:
        return self.content

    def state(self) -> tuple[str | int, ...]:
        return (hashlib.blake2b(self.content, digest_size=16).hexdigest(),)


class DatasetImage(StoredImage):
    """An image in a cell of a ``datasets`` dataset that does not decode images."""

    def __init__(self, dataset: Any, source: str, column: str, row: int, item: int | None = None):
        self.dataset, self.source, self.column, self.row, self.item = dataset, source, column, row, item

    @property
    def name(self) -> str:
        return _cell_name(self.source, self.column, self.row, self.item)

    def read(self) -> bytes:
        return _bytes(self, self.dataset[self.row][self.column], self.item, Path())

    def state(self) -> tuple[str | int, ...]:
        return len(self.dataset), self.dataset._fingerprint


def _cell_name(source: str, column: str, row: int, item: int | None) -> str:
    return f"{source}[{row}][{column}]" + ("" if item is None else f"[{item}]")


def _bytes(image: StoredImage, cell: Any, item: int | None, folder: Path) -> bytes:
    if item is not None and cell is not None:
        cell = cell[item]
    if isinstance(cell, dict):
        path = cell.get("path")
        if cell.get("bytes") is None and path and (folder / path).is_file():
            return read_regular(folder / path, MAX_IMAGE_FILE_BYTES)
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        raise ImageError(image.name, "the cell has no image")
    return cell


Key = tuple[str, int, int, int]


def _key(path: Path) -> Key:
    """Return the key under which an open file is cached.

    It includes the process, because a forked process would move the parent's file position, and time and
    size of the file, because a replaced file must be opened again.
    """
    status = path.stat()
    return str(path), os.getpid(), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _open_zip(key: Key) -> zipfile.ZipFile:
    return zipfile.ZipFile(key[0])


@lru_cache(maxsize=64)
def _open_parquet(key: Key) -> tuple[Any, list[int]]:
    """Return the file and the index of the first row of each row group."""
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(key[0])
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return file, [sum(sizes[:group]) for group in range(len(sizes))]


@lru_cache(maxsize=4)
def _row_group(key: Key, group: int, column: str) -> Any:
    return _open_parquet(key)[0].read_row_group(group, columns=[column]).column(column)
