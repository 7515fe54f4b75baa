"""Locks: one run at a time in a folder."""

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
    """For all ranks together: the folder exists and is this run's alone.

    Raises:
        OutputError: another run is using it, or it cannot be written to.
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
            warn(f"Cannot lock '{folder}': its disk has no locks. Let no other run write there.")
    flag = torch.tensor(float(refused is not None), device=accelerator.device)
    if accelerator.reduce(flag, reduction="sum") > 0:
        raise refused or OutputError(f"{folder}: refused by the first process")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


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
            f"Cannot use '{os.fspath(what)}': another run is using it ({lock.lock_file}). Wait for it to "
            "end, or choose another output folder."
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
        message = f"Cannot lock {str(folder)!r}: its disk has no locks. Let no other run write there."
        warn_caller(message, DataWarning)
        yield
        return
    try:
        yield
    finally:
        lock.release()
