"""Checkpoints of a run: written atomically by all ranks, limited in number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, RewardCoreError
from ..files.atomic_write import replace_folder
from ..files.format_version import FORMAT_VERSION, check_format_version
from .cuda import load_optimizer
from .random_state import random_state, restore_random_state
from .run_state import RunState
from .write_errors import write_errors

if TYPE_CHECKING:
    from accelerate import Accelerator

CURRENT_FORMAT = 2  # format 1 had no version and used other files in refl
STATE = "state.json"  # written last; a folder without it is not a checkpoint
TENSORS, OPTIMIZERS = "tensors.safetensors", "optimizers.pt"

S = TypeVar("S", bound=RunState)


@dataclass
class Trained:
    """Content of a checkpoint besides the state of the run.

    Attributes:
        accelerator: accelerator whose gradient scaler is saved, with the random state of every rank.
        tensors: function that returns the trained weights by name, and others such as their moving average.
        load_tensors: function that restores them; raises ValueError for tensors of another model.
        optimizers: optimizers that the accelerator prepared.
        numbers: function that returns further values for JSON, such as the learning-rate schedule.
        load_numbers: function that restores them.
    """

    accelerator: Accelerator
    tensors: Callable[[], dict[str, Tensor]]
    load_tensors: Callable[[dict[str, Tensor]], None]
    optimizers: Sequence[Any]
    numbers: Callable[[], dict[str, Any]] = field(default=dict)
    load_numbers: Callable[[dict[str, Any]], None] = field(default=lambda numbers: None)


class CheckpointFolder:
    """The folder ``checkpoints`` of a run, with at most ``limit`` checkpoints.

    They are named step-000050, step-000100 and so on.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def all(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / STATE).is_file())

    def save(self, trained: Trained, state: RunState) -> None:
        """Write a checkpoint, on all ranks together, then remove older ones.

        Raises:
            OutputError: the checkpoint cannot be written; older ones are kept.
        """
        from safetensors.torch import save_file

        accelerator = trained.accelerator
        with write_errors(self.folder), self._writing(accelerator, state.step) as folder:
            torch.save(random_state(), folder / _random_file(accelerator))
            if accelerator.is_main_process:
                save_file(trained.tensors(), folder / TENSORS)
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                optimizers = [optimizer.state_dict() for optimizer in trained.optimizers]
                torch.save({"optimizers": optimizers, "scaler": scaler}, folder / OPTIMIZERS)
                document = {
                    FORMAT_VERSION: CURRENT_FORMAT,
                    "run": asdict(state),
                    "numbers": trained.numbers(),
                }
                (folder / STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")

    def load(self, path: Path, trained: Trained, expected: S) -> S:
        """Restore a checkpoint and return its state.

        Args:
            path: folder of the checkpoint.
            trained: where to restore the content.
            expected: state of this run. Its number of processes and its fingerprint must match.

        Raises:
            CheckpointError: the checkpoint is damaged, has another format, or belongs to a run with other
                settings, data or number of processes.
        """
        from safetensors.torch import load_file

        with _damage_as_checkpoint_error(path):
            document = json.loads((path / STATE).read_text(encoding="utf-8"))
            advice = "Choose another output folder, or finish this run with the version that started it."
            check_format_version(document, CURRENT_FORMAT, path, advice)
            state = type(expected)(**document["run"])
        _check_same_run(path, state, expected)
        with _damage_as_checkpoint_error(path):
            tensors = load_file(path / TENSORS)
            saved = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
            file = path / _random_file(trained.accelerator)
            random = torch.load(file, map_location="cpu", weights_only=True)
            for optimizer, optimizer_state in zip(trained.optimizers, saved["optimizers"], strict=True):
                load_optimizer(optimizer, optimizer_state)
            trained.load_tensors(tensors)
            trained.load_numbers(document["numbers"])
            if trained.accelerator.scaler is not None and saved["scaler"]:
                trained.accelerator.scaler.load_state_dict(saved["scaler"])
            restore_random_state(random)
        return state

    def oldest_best_step(self) -> int:
        """Return the earliest step whose best weights a checkpoint refers to, or 0."""
        states = [json.loads((path / STATE).read_text(encoding="utf-8"))["run"] for path in self.all()]
        return min((state["best_step"] for state in states), default=0)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints after a step."""
        for path in self.all():
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _writing(self, accelerator: Accelerator, step: int) -> Iterator[Path]:
        """Yield a temporary folder on all ranks and move it to the checkpoint at the end."""
        path = self.folder / f"step-{step:06d}"
        temporary = self.folder / f".writing-{path.name}"
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            yield temporary
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                replace_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if accelerator.is_main_process:
            for old in self.all()[: -self.limit]:
                if old != path:  # it is older if the run was restarted from an earlier checkpoint
                    shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()


def _check_same_run(path: Path, saved: RunState, expected: RunState) -> None:
    changes = saved.differences(expected)
    if saved.fingerprint != expected.fingerprint or changes:
        details = f" ({'; '.join(changes)})" if changes else ""
        raise CheckpointError(
            f"Cannot resume from '{path}': its run has other settings or data{details}. Restore them, or "
            "choose another output folder."
        )
    if saved.processes != expected.processes:
        raise CheckpointError(
            f"Cannot resume from '{path}': its run has {saved.processes} processes, this one has "
            f"{expected.processes}. Start {saved.processes} processes, or choose another output folder."
        )


@contextmanager
def _damage_as_checkpoint_error(path: Path) -> Iterator[None]:
    try:
        yield
    except RewardCoreError:
        raise
    except Exception as error:  # truncated files fail in many ways
        raise CheckpointError(
            f"Cannot resume from '{path}': it is damaged ({error}). Remove it to resume from the checkpoint "
            "before it."
        ) from error


def _random_file(accelerator: Accelerator) -> str:
    return f"random-{accelerator.process_index}.pt"
