"""Common parts of training runs: lock, resume, log, checkpoint, stop, upload."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..errors import InputError
from ..hub.uploads import upload_folder
from .checkpoint_folder import CheckpointFolder, Trained
from .interruption import Interruption
from .metrics_file import METRICS, MetricsFile
from .run_lock import exclusive_run
from .run_state import RunState
from .step_bar import step_bar
from .write_errors import write_errors

if TYPE_CHECKING:
    from accelerate import Accelerator

S = TypeVar("S", bound=RunState)


class StepMetrics(Protocol):
    """Metrics of one step."""

    def row(self) -> dict[str, float]:
        """Return the line of metrics.jsonl without the step number."""
        ...

    def summary(self) -> str:
        """Return a short text for the progress bar."""
        ...


class TrainingRun(Generic[S]):
    """A training run in a folder, on all ranks together. The loop is in the trainer.

    Args:
        trained: content of checkpoints besides the state.
        folder: folder of the run.
        state: state of a new run.
        steps: number of steps of the whole run.
        checkpoints: number of checkpoints to keep.
        trackers: names of accelerate's trackers.
        settings: settings of the run, for the trackers.
        logger: logger for messages to the user.

    Attributes:
        state: current state; ``restore`` replaces it.
        metrics: the file metrics.jsonl.
    """

    def __init__(
        self,
        trained: Trained,
        folder: Path,
        state: S,
        steps: int,
        checkpoints: int,
        trackers: Sequence[str],
        settings: Mapping[str, Any],
        logger: logging.Logger,
    ):
        self.accelerator: Accelerator = trained.accelerator
        self.trained, self.folder, self.state, self.total = trained, folder, state, steps
        self.trackers, self.settings, self.logger = trackers, settings, logger
        self.checkpoints = CheckpointFolder(folder / "checkpoints", checkpoints)
        self.metrics = MetricsFile(folder / METRICS)
        self._saved_step = -1

    # Messages and metrics

    def report(self, line: str) -> None:
        """Log a line, once for all ranks."""
        if self.accelerator.is_main_process:
            self.logger.info(line)

    def warn(self, line: str) -> None:
        """Log a warning, once for all ranks."""
        if self.accelerator.is_main_process:
            self.logger.warning(line)

    def log(self, row: Mapping[str, float]) -> None:
        """Add a line to the metrics file, and send it to the trackers."""
        if self.accelerator.is_main_process:
            with write_errors(self.folder):
                self.metrics.add({"step": self.state.step, **row})
        if self.trackers:
            finite = {name: value for name, value in row.items() if math.isfinite(value)}
            self.accelerator.log(finite, step=self.state.step)

    # Start, resume, save

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Create the folder of the run and hold its lock.

        Raises:
            OutputError: another run uses the folder, or it is not writable.
        """
        with exclusive_run(self.accelerator, self.folder, self.warn):
            yield

    def restore(
        self,
        resume: str | os.PathLike[str] | None = None,
        check: Callable[[S], None] = lambda state: None,
    ) -> bool:
        """Load the newest checkpoint, if any, and remove everything written after it.

        Args:
            resume: checkpoint to load instead; newer ones are removed.
            check: called with the loaded state before anything is changed; may raise.

        Returns:
            Whether the run resumes from a checkpoint.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another run.
            InputError: the checkpoint does not exist.
        """
        checkpoints = self.checkpoints.all()
        if resume is not None and not Path(resume).is_dir():
            existing = ", ".join(map(str, checkpoints)) or "none"
            raise InputError(
                f"Cannot resume from '{resume}': no such checkpoint. Choose one of these: {existing}."
            )
        path = Path(resume) if resume is not None else checkpoints[-1] if checkpoints else None
        if path is not None:
            self.state = self.checkpoints.load(path, self.trained, self.state)
            check(self.state)
        main = self.accelerator.is_main_process
        if main and path is not None:
            self.checkpoints.remove_after(self.state.step)
        if main:
            with write_errors(self.folder):
                self.metrics.keep_until(self.state.step if path is not None else -1)
        self.accelerator.wait_for_everyone()
        if self.trackers:
            name = self.folder.resolve().name
            self.accelerator.init_trackers(name, config={"settings": json.dumps(self.settings)})
        if path is not None:
            self.report(f"resuming after step {self.state.step} ({path})")
        return path is not None

    def save(self) -> None:
        """Write a checkpoint of the current step if it is not saved yet.

        Raises:
            OutputError: the checkpoint cannot be written; older ones are kept.
        """
        if self._saved_step == self.state.step:
            return
        if self.accelerator.is_main_process:
            self.metrics.sync()
        self.checkpoints.save(self.trained, self.state)
        self._saved_step = self.state.step

    # The loop

    @contextmanager
    def steps(self, save: Callable[[], None] | None = None) -> Iterator[Iterator[int]]:
        """Yield the numbers of the remaining steps, until ``state.stopped`` is set.

        After Ctrl-C or SIGTERM the current step ends, a checkpoint is saved and KeyboardInterrupt is raised.

        Args:
            save: function that saves the checkpoint (default: ``self.save``).
        """
        main = self.accelerator.is_main_process
        with (
            Interruption(self.accelerator, self.report) as interruption,
            step_bar(self.total, self.state.step, main) as self._advance,
        ):
            yield self._numbers(interruption, save or self.save)

    def _numbers(self, interruption: Interruption, save: Callable[[], None]) -> Iterator[int]:
        while self.state.step < self.total and not self.state.stopped:
            yield self.state.step
            if interruption.requested():
                save()
                self.report(f"stopped after step {self.state.step}; run the same command to resume")
                raise KeyboardInterrupt

    def finish_step(self, metrics: StepMetrics, usable: bool, counts: bool = True) -> None:
        """Count a step, log it and advance the bar.

        Args:
            metrics: metrics of the step.
            usable: whether the optimizer took the step; otherwise it was skipped.
            counts: whether a skipped step counts toward the limit that ends a run.
        """
        self.state.step += 1
        if usable:
            self.state.skipped_in_a_row = 0
        else:
            self.state.skipped += 1
            self.state.skipped_in_a_row += counts
        self.log({**metrics.row(), "skipped": self.state.skipped})
        self._advance(metrics.summary())

    @property
    def ended(self) -> bool:
        """Whether the run has done its last step."""
        return self.state.step >= self.total or bool(self.state.stopped)

    # End

    def upload(
        self, folder: Path, repository: str, message: str, patterns: Sequence[str] | None = None
    ) -> None:
        """Upload a folder to the hub from the main rank.

        Raises:
            HubError: the upload failed.
        """
        if self.accelerator.is_main_process:
            address = upload_folder(folder, repository, commit_message=message, patterns=patterns)
            self.report(f"uploaded to {address}")

    def close(self) -> None:
        """Wait for all ranks and end the trackers and the process group."""
        self.accelerator.wait_for_everyone()
        # Also ends the process group. If it stays open, a rank may abort (-6) at exit.
        self.accelerator.end_training()
