"""What every source offers, and numbered lines of a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, Protocol

from ...errors import InputError
from ...files.tables import MAX_LINE_BYTES
from ..input_row import InputRow
from .csv_separator import separator_error

#: A text file's position is noted every so many rows, so that reading can begin near any of them.
STRIDE = 512
#: Larger input is told from other input by sizes and times instead of by all its bytes.
WHOLE_DIGEST_LIMIT = 1 << 30
#: Characters that are kept of a line that is too long.
LONG_LINE_SHOWN = 80
#: The columns' usual names.
PROMPT_COLUMN, IMAGE_COLUMN = "prompt", "image"


class Source(Protocol):
    """Rows, in a fixed order. It can be pickled; another process then reads the same rows."""

    #: How many there are.
    rows: int
    #: Images that are no rows, because another one of their sample is scored.
    extra_images: int = 0

    def read(self, start: int) -> Iterator[InputRow]:
        """The rows from ``start`` on, to the end; bad ones carry their error."""
        ...

    def image_paths(self, start: int) -> Iterator[str | None]:
        """The path of each row's image file from ``start`` on; None where it has no path."""
        for row in self.read(start):
            yield row.content if isinstance(row.content, str) else None

    def fingerprint(self) -> dict[str, Any]:
        """What tells this input from another, for JSON."""
        ...


class SourceSpec(Protocol):
    """A source that is still to be opened."""

    def files(self) -> Iterable[str | os.PathLike[str]]:
        """Paths of what is read as rows, which the scores must not replace; some may not be there."""
        ...

    def open(self, folder: Path) -> Source:
        """Look through the input. ``folder`` may take what is noted of it. Raises InputError."""
        ...


class LongLine(str):
    """The beginning of a line that is longer than MAX_LINE_BYTES."""


class Lines:
    """A text file's lines with the last one's number, and the position after it in bytes.

    Bytes that are no UTF-8 come as surrogates, as in file names. A line that is too long comes as a LongLine.
    """

    def __init__(self, file: BinaryIO, digest: Any = None, number: int = 0):
        self.file, self.digest, self.position, self.number = file, digest, file.tell(), number
        self.most = MAX_LINE_BYTES.value

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.most:
            self._skip_rest(line)
            return LongLine(line[:LONG_LINE_SHOWN].decode("utf-8", "replace"))
        text = line.decode("utf-8", "surrogateescape")
        # Excel begins its files with a byte order mark.
        return text.removeprefix("\ufeff") if self.position == len(line) else text

    def _read(self) -> bytes:
        part = self.file.readline(self.most + 1)
        if self.digest is not None:
            self.digest.update(part)
        self.position += len(part)
        return part

    def _skip_rest(self, part: bytes) -> None:
        while part and not part.endswith(b"\n"):
            part = self._read()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_columns(where: object, columns: list[str], wanted: tuple[str, ...]) -> None:
    """Raise InputError unless all wanted columns are there."""
    missing = [name for name in wanted if name not in columns]
    if missing:
        known = shorten(", ".join(map(repr, columns)) or "none", 1000, placeholder=" ...")
        separator = separator_error(",".join(columns), wanted)
        if separator is not None:
            raise InputError(f"Cannot read '{where}': {separator}")
        raise InputError(
            f"{where}: no column {' or '.join(map(repr, missing))}; it has {known} "
            "(name them with --prompt-column and --image-column)"
        )
    for name in wanted:
        if columns.count(name) > 1:
            raise InputError(
                f"{where}: column {name!r} is there {columns.count(name)} times; rename the others"
            )


def check_rows(where: object, rows: int) -> None:
    if not rows:
        raise InputError(f"{where}: it holds no rows")
