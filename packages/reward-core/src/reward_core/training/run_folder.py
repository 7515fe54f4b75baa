"""A run's folder: one run at a time, and every failure to write into it told the same way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import OutputError
from ..whole_file import take_lock

if TYPE_CHECKING:
    from accelerate import Accelerator

LOCK_FILE = ".train.lock"
TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")  # where torch.save failed


@contextmanager
def alone(accelerator: Accelerator, folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """For all ranks together: the folder exists and is this run's alone.

    Raises:
        OutputError: another run is at work on it, or it cannot be written to.
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
            tell(f"warning: {folder} is on a disk without locks; see that no other run writes there")
    flag = torch.tensor(float(refused is not None), device=accelerator.device)
    if accelerator.reduce(flag, reduction="sum") > 0:
        raise refused or OutputError(f"{folder}: refused by the first process")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def write_errors(folder: Path, kind: type[Exception] = OutputError) -> Iterator[None]:
    """A full disk is told of in the kinds of error of three libraries; here it is one, of a kind given."""
    from safetensors import SafetensorError

    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        told = str(error).partition("\n")[0]
        if isinstance(error, NotImplementedError) or (
            isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_WRITING)
        ):
            raise
        for unfinished in folder.glob(".writing-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise kind(
            f"{folder}: cannot be written to ({told}); make room on its disk, then the same command goes on "
            "from the last checkpoint that is whole"
        ) from error
