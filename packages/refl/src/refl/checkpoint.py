"""What a checkpoint of a run holds (how it is written: reward_core.runs.checkpoint_folder)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reward_core.files.atomic_write import atomic_write
from reward_core.runs.checkpoint_folder import STATE, CheckpointFolder, damaged, differs
from reward_core.runs.write_errors import write_errors as shared_write_errors

from .errors import CheckpointError
from .trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHTS = "trainable.safetensors"
EMA_NUMBERS = ("decay", "optimization_step")


@dataclasses.dataclass
class RunState:
    """What a run knows of itself between two steps.

    Attributes:
        step: optimizer steps done.
        skipped: steps without a finite reward or gradient so far.
        skipped_in_a_row: of these, the last ones.
        best: best value of the held-out reward that may stop the run.
        best_step: the step of that validation.
        worse: validations in a row below it.
        diversity: how much images of one prompt differed before training.
        stopped: why the run was stopped early; empty: it was not.
        processes: of the run; noise does not depend on it, random states do.
        fingerprint: of the settings that decide the outcome.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    diversity: float | None = None
    stopped: str = ""
    processes: int = 1
    fingerprint: str = ""


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """What cannot be written is a CheckpointError, whichever library tells of it."""
    with shared_write_errors(folder, CheckpointError):
        yield


class Checkpoints(CheckpointFolder):
    """What this trainer puts into its checkpoints, and the best weights beside them."""

    def save_best(self, trainable: Trainable, step: int) -> None:
        """Keep the weights of the best validation so far, beside those that older checkpoints know of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"best-{step:06d}.safetensors"
        with write_errors(self.folder), atomic_write(path) as temporary:
            save_file(trainable.tensors(), temporary)

    def load_best(self, trainable: Trainable, step: int) -> None:
        """The weights that ``save_best`` kept at that step, back in place.

        Raises:
            CheckpointError: gone or damaged.
        """
        path = self.folder / f"best-{step:06d}.safetensors"
        try:
            trainable.load_tensors(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: the best validation's weights cannot be read ({error})"
            ) from error

    def save(self, accelerator: Accelerator, trainable: Trainable, schedule: Any, state: RunState) -> None:
        """Write a checkpoint, on all ranks together; it appears when it is complete."""
        with write_errors(self.folder), self.writing(accelerator, state.step) as folder:
            accelerator.save_state(str(folder))  # optimizer, scaler, every rank's random state
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                save_file(trainable.tensors(), folder / WEIGHTS)
                ema = trainable.ema
                numbers = {name: getattr(ema, name) for name in EMA_NUMBERS} if ema is not None else None
                document = {
                    "run": dataclasses.asdict(state),
                    "schedule": schedule.state_dict(),
                    "ema": numbers,
                }
                document["schedule"].pop("lr_lambdas", None)  # functions, remade from the settings
                (folder / STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")
        if accelerator.is_main_process:
            self._drop_old_bests()

    def _drop_old_bests(self) -> None:
        """A run may go on from any checkpoint that is left, whose best must be there then."""
        states = [json.loads((path / STATE).read_text(encoding="utf-8"))["run"] for path in self.all()]
        oldest = min(state.get("best_step", 0) for state in states)
        for path in self.folder.glob("best-*.safetensors"):
            if path.name < f"best-{oldest:06d}":
                path.unlink(missing_ok=True)

    def load_latest(
        self, accelerator: Accelerator, trainable: Trainable, schedule: Any, fingerprint: str
    ) -> RunState | None:
        """Restore the newest checkpoint; None where there is none.

        Raises:
            CheckpointError: damaged, or of a run with other settings or another number of processes.
        """
        found = self.all()
        if not found:
            return None
        path = found[-1]
        try:
            document = json.loads((path / STATE).read_text(encoding="utf-8"))
            state = RunState(**document["run"])
            weights = load_file(path / WEIGHTS)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(damaged(path, error)) from error
        expected = (fingerprint, accelerator.num_processes)
        if difference := differs(path, (state.fingerprint, state.processes), expected):
            raise CheckpointError(difference)
        try:
            accelerator.load_state(str(path))
        except Exception as error:  # truncated files fail in many ways
            raise CheckpointError(damaged(path, error)) from error
        trainable.load_tensors(weights)
        if trainable.ema is not None:
            for name, value in document["ema"].items():
                setattr(trainable.ema, name, value)
        schedule.load_state_dict({**schedule.state_dict(), **document["schedule"]})
        return state
