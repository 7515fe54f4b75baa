"""Locks that let only one run write to a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import DataWarning, OutputError
from .caller_warning import warn_caller
from .write_errors import write_errors

if TYPE_CHECKING:
    from accelerate import Accelerator
    from filelock import BaseFileLock

LOCK_FILE = ".train.lock"


@contextmanager
def exclusive_run(accelerator: Accelerator, folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Create a folder and lock it, on all ranks together.

    Args:
        accelerator: accelerator of the run.
        folder: folder of the run.
        warn: function that prints a warning, for disks without locks.

    Raises:
        OutputError: another run uses the folder, or it is not writable.
    """
    lock, refused = None, None
    if accelerator.is_main_process:
        try:
            with write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = take_lock(folder / LOCK_FILE, folder)
        except OutputError as error:
            refused = error
        except NotImplementedError:
            warn(f"Cannot lock '{folder}': its disk has no locks. Do not let another run write to it.")
    flag = torch.tensor(float(refused is not None), device=accelerator.device)
    if accelerator.reduce(flag, reduction="sum") > 0:
        raise refused or OutputError(f"Cannot use '{folder}': the main process reports the reason.")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def take_lock(file: Path, what: str | os.PathLike[str]) -> BaseFileLock:
    """Return the lock of a file, held until it is released or the process ends.

    Args:
        file: the lock file.
        what: name of the locked object in error messages.

    Raises:
        OutputError: another run holds the lock.
        OSError: the file cannot be created.
        NotImplementedError: the disk has no locks.
    """
    import filelock

    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise OutputError(
            f"Cannot use '{os.fspath(what)}': another run is using it ({lock.lock_file}). Wait until it ends "
            "or choose another output folder."
        ) from error
    return lock


@contextmanager
def folder_lock(folder: Path, name: str) -> Iterator[None]:
    """Create a folder and hold its lock, so that only one command writes to it.

    Args:
        folder: the folder.
        name: name of the lock file in the folder. The file stays, but the lock ends with its process.

    Raises:
        OutputError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = take_lock(folder / name, folder)
    except NotImplementedError:  # a disk without locks
        message = f"Cannot lock {str(folder)!r}: its disk has no locks. Do not let another run write to it."
        warn_caller(message, DataWarning)
        yield
        return
    try:
        yield
    finally:
        lock.release()
