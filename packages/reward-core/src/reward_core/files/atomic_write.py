"""Atomic writes: to a temporary name, then sync, then rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` at the end.

    It is removed on an error.

    Args:
        path: the file to create or replace.
        beside: folder of the temporary file, on the same disk (default: the folder of ``path``).
    """
    # Only part of the name, because a full name may already have the maximum length.
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
    """Yield an empty folder that replaces ``path`` at the end.

    It is removed on an error.
    """
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Sync a folder and rename it to ``path``, replacing a previous folder."""
    sync_tree(new)
    old = path.with_name(f".{path.name[:50]}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flush all files of a folder and their names to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, on systems that can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_disk() -> None:
    """Flush everything written so far to the disk, for many files at once.

    Windows does not have such a call; it writes within seconds.
    """
    if hasattr(os, "sync"):
        os.sync()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync_file(path: Path) -> None:
    """Flush the content of a file to the disk."""
    # Windows syncs only files opened for writing; elsewhere a file may be read-only.
    with open(path, "r+b" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())
