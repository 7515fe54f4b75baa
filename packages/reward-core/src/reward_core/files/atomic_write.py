"""Files and folders that appear complete: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces ``path`` at the end, or is removed on an error.

    Args:
        path: the file to create or replace.
        beside: folder of the temporary file, on the same disk (default: the folder of ``path``).
    """
    # Part of the name is enough: a whole one may be as long as names can be.
    temporary = (beside or path.parent) / f".{path.name[:50]}.{os.getpid()}.tmp"
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder to fill; it replaces ``path`` at the end, or is removed on an error."""
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Sync a folder's files and give it another's name; the other one is removed after that."""
    sync_tree(new)
    old = path.with_name(f".{path.name[:50]}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Have all files of a folder, and their names, on the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the system lets folders be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_disk() -> None:
    """Have everything that was written so far on the disk, for many files at once.

    Windows has no such call; it writes within seconds.
    """
    if hasattr(os, "sync"):
        os.sync()


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears complete or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync_file(path: Path) -> None:
    """Have a file's content on the disk."""
    # Windows syncs only what is open for writing; elsewhere a file may be read-only.
    with open(path, "r+b" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())
