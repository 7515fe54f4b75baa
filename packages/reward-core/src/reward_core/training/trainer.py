"""The training loop of reward models, from rankings to a folder with a reward model."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from ..models.imagereward.reward_model import RewardModel
from ..printing.logger import default_logging
from ..rankings import RankedPrompt
from ..runs.checkpoint_folder import Trained
from ..runs.training_run import TrainingRun
from .batch_plan import BatchPlan
from .config import TrainingConfig
from .finish import Outcome, finish, gathered_unreadable, save_best
from .group_reader import ReadGroup, Reword
from .group_rewards import GroupRewards
from .health import Health
from .notices import notices
from .optimizers import rate_at, set_rates
from .setup import (
    decisive_facts,
    fingerprint,
    make_accelerator,
    make_optimizers,
    make_readers,
    prepare_model,
    prepare_splits,
)
from .step import StepMetrics, TrainingStep
from .training_state import TrainedWeights, TrainingState
from .validation import validate

logger = logging.getLogger(__name__)


class Trainer:
    """Train a reward model on rankings.

    Args:
        settings: the run's settings.
        model: the model to train, in place; None loads ``settings.init``.
        splits: groups by split ("train", optionally "validation" and "test"); None reads ``settings.data``.
        reword: (record, epoch) -> the prompt to use in that epoch; None uses the record's prompt.

    Attributes:
        state: steps done, best validation, and why the run stopped early.
        metrics: the run's metrics.jsonl.

    Raises:
        RewardCoreError: invalid settings or data, raised before any long computation.
    """

    def __init__(
        self,
        settings: TrainingConfig,
        model: RewardModel | None = None,
        splits: Mapping[str, Sequence[RankedPrompt]] | None = None,
        reword: Reword | None = None,
    ):
        default_logging("reward-core")
        self.settings = settings.check()
        self.out = Path(settings.out)
        self.accelerator = accelerator = make_accelerator(settings)
        self.splits = prepare_splits(settings, splits, accelerator.is_main_process)
        torch.manual_seed(settings.seed)
        self.model = prepare_model(settings, model, accelerator)
        self.rewards = GroupRewards(self.model, settings).to(accelerator.device)
        self.readers = make_readers(settings, self.rewards, self.splits, accelerator, reword)
        train = self.readers["train"]
        self.plan = BatchPlan(train.pairs, settings, accelerator.num_processes)
        self.optimizers = make_optimizers(settings, self.rewards)
        self.wrapped, *optimizers = accelerator.prepare(self.rewards, *self.optimizers)
        parts = (self.rewards, self.wrapped, optimizers, train.cache)
        self.take_step = TrainingStep(settings, accelerator, *parts)
        weights = TrainedWeights(self.rewards)
        self.run = TrainingRun(
            Trained(accelerator, weights.tensors, weights.load_tensors, self.optimizers),
            self.out,
            TrainingState(
                processes=accelerator.num_processes,
                fingerprint=fingerprint(settings, self.splits),
                facts=decisive_facts(settings, self.splits, self.model, given=model is not None),
            ),
            len(self.plan.steps),
            settings.checkpoints,
            settings.trackers,
            settings.to_dict(),
            logger,
        )
        self.metrics = self.run.metrics
        self.health = Health(settings, accelerator.mixed_precision)

    @property
    def state(self) -> TrainingState:
        return self.run.state

    def train(self, resume: str | os.PathLike[str] | None = None) -> Path:
        """Train to the end; resume if the output folder has a checkpoint.

        Args:
            resume: checkpoint to resume from; later ones are removed. None uses the newest.

        Returns:
            The output folder, which ``reward_core.load`` reads.

        Raises:
            TrainingError: ten steps in a row had no finite loss or gradient.
            KeyboardInterrupt: interrupted; a checkpoint was saved first.
            OutputError: another run is using the folder, or it is not writable.
        """
        started = time.perf_counter()
        with self.run.exclusive():
            for line in notices(self.settings, self.plan, self.model, self.splits):
                self.run.report(line)
            self._begin(resume)
            batches = self._read_ahead(self.state.step)
            with self.run.steps(self._save) as steps:
                for number in steps:
                    current, batches = batches, self._read_ahead(number + 1)
                    metrics = self.step(current)
                    self.run.finish_step(metrics, metrics.finite, counts=metrics.pairs > 0)
                    self.health.check(self.run, metrics, self.rewards)
                    if self.state.step in self.plan.validation_steps:
                        self._validate()
                    if self._checkpoint_due():
                        self._save()
            return self._finish(time.perf_counter() - started)

    def step(self, batches: Sequence[Sequence[Future[ReadGroup | None]]]) -> StepMetrics:
        """Take one optimizer step on this rank's micro-batches, whose images are being read."""
        settings, number = self.settings, self.state.step
        rate = rate_at(number, len(self.plan.steps), self.plan.warmup_steps, settings.schedule)
        set_rates(self.optimizers, rate)
        return self.take_step(batches, self.plan.steps[number].epoch)

    def _begin(self, resume: str | os.PathLike[str] | None) -> None:
        restored = self.run.restore(resume)
        self.wrapped.train()
        if restored:
            for name in self.readers.keys() & self.state.unreadable.keys():
                self.readers[name].skipped |= self.state.unreadable[name]
        else:
            torch.manual_seed(self.settings.seed + self.accelerator.process_index)  # for dropout
            self._validate()

    def _read_ahead(self, number: int) -> list[list[Future[ReadGroup | None]]]:
        """Start reading this rank's micro-batches of a step."""
        if number >= len(self.plan.steps):
            return []
        step = self.plan.steps[number]
        mine = step.of_rank(self.accelerator.process_index, self.accelerator.num_processes)
        return [self.readers["train"].start(batch, step.epoch) for batch in mine]

    def _validate(self) -> None:
        settings, state, reader = self.settings, self.state, self.readers.get("validation")
        if reader is None:
            return
        source = f"the validation set of {Path(settings.data).name or 'the data'}"
        batch = settings.batch_size if settings.batch_unit == "groups" else 4
        result = validate(self.rewards, reader, self.accelerator, settings.average, batch, source)
        self.run.log({**result.row("validation"), "validation/reward_std": result.std})
        self.run.report(
            f"step {state.step} of {len(self.plan.steps)}: validation loss {result.loss:.4f}, "
            f"{result.accuracy:.1%} of {result.pairs:,} pairs ordered correctly"
        )
        if result.not_finite:
            self.run.warn(f"{result.not_finite_message()}; step {state.step} cannot be the best")
        if not result.not_finite and (state.best is None or result.loss < state.best):
            state.best, state.best_step, state.worse = result.loss, state.step, 0
            if self.accelerator.is_main_process:
                save_best(self.model, self.out, result)
        else:
            state.worse += 1
            if settings.patience and state.worse >= settings.patience:
                state.stopped = f"{state.worse} validations in a row without a lower loss"
                self.run.report(f"stopped early at step {state.step}: {state.stopped}")

    def _checkpoint_due(self) -> bool:
        every, step = self.settings.checkpoint_every, self.state.step
        return self.run.ended or (step % every == 0 if every else step in self.plan.validation_steps)

    def _save(self) -> None:
        self.state.unreadable = gathered_unreadable(self.readers, self.accelerator)
        self.run.save()

    def _finish(self, seconds: float) -> Path:
        self.health.check_outcome(self.run, self.readers, self.rewards)
        if "validation" not in self.readers:
            self.state.best_step = self.state.step
            if self.accelerator.is_main_process:
                save_best(self.model, self.out, None)
        return finish(Outcome(self.settings, self.run, self.rewards, self.readers, self.splits), seconds)
