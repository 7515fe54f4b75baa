"""Files that appear whole: written under a temporary name, on the disk before they get their own."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataWarning, OutputError

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextmanager
def whole_file(path: Path, beside: Path | None = None) -> Iterator[Path]:
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


def take_lock(file: Path, what: str | os.PathLike[str]) -> BaseFileLock:
    """The lock of this file, held until it is released or the process ends.

    Args:
        what: how errors call what is locked.

    Raises:
        OutputError: another run has it. OSError: the file cannot be made. NotImplementedError: no locks here.
    """
    import filelock

    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise OutputError(
            f"{os.fspath(what)}: another run is at work on it ({lock.lock_file}). "
            "Wait for it to end, or give another output folder"
        ) from error
    return lock


@contextmanager
def folder_lock(folder: Path, name: str) -> Iterator[None]:
    """Create a folder and hold its lock, so that one command at a time writes into it.

    Args:
        name: of the lock file in the folder. It stays there and blocks nobody once its owner has ended.

    Raises:
        OutputError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = take_lock(folder / name, folder)
    except NotImplementedError:  # a disk without locks
        warnings.warn(
            f"Cannot lock {str(folder)!r}: its disk has no locks. Let no other run write there.",
            DataWarning,
            stacklevel=3,
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk too, where the system lets folders be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """``content`` as a JSON file, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
