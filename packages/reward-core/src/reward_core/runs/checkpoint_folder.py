"""A run's checkpoints as folders: written whole by all ranks together, limited in number, found again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE = "state.json"  # written last; a folder without it is no checkpoint


class CheckpointFolder:
    """The folder ``checkpoints`` of a run: step-000050, step-000100, ..., at most ``limit`` of them."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / STATE).is_file())

    @contextmanager
    def writing(self, accelerator: Accelerator, step: int) -> Iterator[Path]:
        """For all ranks together: gives the folder to write into; at the end it becomes the checkpoint.

        Older ones beyond the limit are removed then.
        """
        path = self.folder / f"step-{step:06d}"
        temporary = self.folder / f".writing-{path.name}"
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        yield temporary
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
            for old in self.all()[: -self.limit]:
                if old != path:  # of a run that began again from an earlier one
                    shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()

    def drop_after(self, step: int) -> None:
        """Forget checkpoints beyond a step that a run goes on from."""
        for path in self.all():
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path, ignore_errors=True)


def differs(
    path: Path, found: tuple[str, int], wanted: tuple[str, int], changed: Sequence[str] = ()
) -> str | None:
    """Why a run may not go on from a checkpoint; None where it may.

    Args:
        found: (fingerprint of the settings, number of processes) of the checkpoint.
        wanted: the same of the run.
        changed: what differs, as far as it is known.
    """
    if found[0] != wanted[0] or changed:
        named = f" ({'; '.join(changed)})" if changed else ""
        return (
            f"{path}: from a run with other settings or data{named}; take them back, or another output folder"
        )
    if found[1] != wanted[1]:
        return f"{path}: from a run of {found[1]} processes, this one has {wanted[1]}"
    return None


def damaged(path: Path, error: Exception) -> str:
    """What to say of a checkpoint that cannot be read."""
    return f"{path}: damaged ({error}); remove it to go on from the one before"
