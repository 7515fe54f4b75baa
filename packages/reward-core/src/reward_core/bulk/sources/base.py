"""The protocols of sources, and the lines of a text file with their numbers."""

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

#: Number of rows between stored positions in a text file, from which reading can start.
STRIDE = 512
#: Inputs larger than this (bytes) are identified by size and modification time instead of a full checksum.
WHOLE_DIGEST_LIMIT = 1 << 30
#: Characters to keep of a line that is too long.
LONG_LINE_SHOWN = 80
#: The default column names.
PROMPT_COLUMN, IMAGE_COLUMN = "prompt", "image"


class Source(Protocol):
    """Rows in a fixed order. A source can be pickled and read in another process."""

    #: Number of rows.
    rows: int
    #: Number of images that are not scored because another image of their sample is.
    extra_images: int = 0

    def read(self, start: int) -> Iterator[InputRow]:
        """Yield the rows from index ``start`` to the end; invalid rows have an error."""
        ...

    def image_paths(self, start: int) -> Iterator[str | None]:
        """Yield the path of each row's image from index ``start``; None if the image is not a path."""
        for row in self.read(start):
            yield row.content if isinstance(row.content, str) else None

    def fingerprint(self) -> dict[str, Any]:
        """Return values for JSON that identify this input."""
        ...


class SourceSpec(Protocol):
    """The description of a source that has not been opened."""

    def files(self) -> Iterable[str | os.PathLike[str]]:
        """Return the paths of the input files, which the scores must not overwrite; some may not exist."""
        ...

    def open(self, folder: Path) -> Source:
        """Check the input and return the source; ``folder`` is for its index files. Raise InputError."""
        ...


class LongLine(str):
    """The beginning of a line that is longer than MAX_LINE_BYTES."""


class Lines:
    """An iterator over the lines of a text file.

    Invalid UTF-8 becomes surrogates, as in file names. A line that is too long becomes a LongLine.

    Attributes:
        number: number of the last line that was read.
        position: byte position after that line.
    """

    def __init__(self, file: BinaryIO, digest: Any = None, number: int = 0):
        self.file, self.digest, self.position, self.number = file, digest, file.tell(), number
        self.limit = MAX_LINE_BYTES.value

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.limit:
            self._skip_rest(line)
            return LongLine(line[:LONG_LINE_SHOWN].decode("utf-8", "replace"))
        text = line.decode("utf-8", "surrogateescape")
        # Excel writes a byte order mark at the start of its files.
        return text.removeprefix("\ufeff") if self.position == len(line) else text

    def _read(self) -> bytes:
        part = self.file.readline(self.limit + 1)
        if self.digest is not None:
            self.digest.update(part)
        self.position += len(part)
        return part

    def _skip_rest(self, part: bytes) -> None:
        while part and not part.endswith(b"\n"):
            part = self._read()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_columns(path: object, columns: list[str], required: tuple[str, ...]) -> None:
    """Raise InputError if a required column is missing or ambiguous.

    Args:
        path: the input, for the message.
        columns: the columns of the input.
        required: the names to look for.
    """
    missing = [name for name in required if name not in columns]
    if missing:
        known = shorten(", ".join(map(repr, columns)) or "none", 1000, placeholder=" ...")
        separator = separator_error(",".join(columns), required)
        if separator is not None:
            raise InputError(f"Cannot read '{path}': {separator}.")
        raise InputError(
            f"Cannot read '{path}': no column {' or '.join(map(repr, missing))}; its columns are {known}. "
            "Set --prompt-column and --image-column."
        )
    for name in required:
        if columns.count(name) > 1:
            raise InputError(
                f"Cannot read '{path}': it has {columns.count(name)} columns named {name!r}. Rename them."
            )


def check_rows(path: object, rows: int) -> None:
    """Raise InputError if an input has no rows."""
    if not rows:
        raise InputError(f"Cannot read '{path}': it has no rows.")
