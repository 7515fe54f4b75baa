"""Files that appear whole: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@contextmanager
def atomic_write(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Gives the temporary path to write to; it becomes ``path`` at the end, or is removed on an error.

    Args:
        path: the file to be; one that is there already is replaced.
        beside: folder of the temporary file, on the same disk (default: path's own).
    """
    # Part of the name will do: a whole one may be as long as names can be.
    temporary = (beside or path.parent) / f".{path.name[:50]}.{os.getpid()}.tmp"
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk too, where the system lets folders be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
