"""The training loop: rankings in, a reward model's folder out; logs, validates, saves, goes on."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from ..errors import EmptyPromptWarning, InputError, PromptTruncatedWarning, TrainingError
from ..models.imagereward.reward_model import RewardModel
from ..printing.command_line import report
from ..rankings import RankedPrompt
from ..runs.interruption import Interruption
from ..runs.metrics_file import METRICS, MetricsFile
from ..runs.run_lock import exclusive_run
from ..runs.write_errors import write_errors
from .batch_plan import BatchPlan
from .config import TrainingConfig
from .finish import TrainedRun, finish, gathered_unreadable, save_best
from .group_reader import GroupReader, ReadGroup, Reword
from .group_rewards import GroupRewards
from .health import MAX_SKIPPED, Health
from .optimizers import rate_at, set_rates
from .run_checkpoint import Checkpoints, RunState
from .setup import (
    decisive_facts,
    fingerprint,
    long_prompts,
    make_accelerator,
    make_cache,
    make_optimizers,
    prepare_model,
    prepare_splits,
)
from .step import TrainingStep
from .step_bar import step_bar
from .validation import ValidationResult, validate


def finite_weights(model: torch.nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


class Trainer:
    """Trains a reward model on rankings.

    Args:
        settings: everything about the run.
        model: what to start from instead of ``settings.init``; it is trained in place.
        splits: "train" and perhaps "validation" and "test" instead of ``settings.data``.
        reword: (record, epoch) -> the prompt to train with in that epoch.

    Raises:
        RewardCoreError: whatever cannot work, before any long work.
    """

    def __init__(
        self,
        settings: TrainingConfig,
        model: RewardModel | None = None,
        splits: Mapping[str, Sequence[RankedPrompt]] | None = None,
        reword: Reword | None = None,
    ):
        self.settings = settings.check()
        self.out = Path(settings.out)
        self.accelerator = accelerator = make_accelerator(settings)
        self.splits = prepare_splits(settings, splits, self.report)
        torch.manual_seed(settings.seed)
        self.model = prepare_model(settings, model, accelerator)
        if cut := long_prompts(self.model, self.splits):
            self.report(f"{cut:,} prompts are cut off after {self.model.config.max_length} tokens")
        self.rewards = GroupRewards(self.model, settings).to(accelerator.device)
        self.readers = {
            name: GroupReader(
                split.groups,
                self.model.transform,
                reword if name == "train" else None,
                settings.workers,
                name,
            )
            for name, split in self.splits.items()
        }
        for name, reader in self.readers.items():
            reader.cache = make_cache(settings, self.rewards, reader, accelerator) if name != "test" else None
        self.plan = BatchPlan(self.readers["train"].pairs, settings, accelerator.num_processes)
        self.optimizers = make_optimizers(settings, self.rewards)
        prepared = accelerator.prepare(self.rewards, *self.optimizers)
        self.wrapped = prepared[0]
        self.take_step = TrainingStep(
            settings, accelerator, self.rewards, self.wrapped, prepared[1:], self.readers["train"].cache
        )
        self.checkpoints = Checkpoints(self.out / "checkpoints", settings.checkpoints)
        self.metrics = MetricsFile(self.out / METRICS)
        self.health = Health(settings)
        self.state = RunState(
            processes=accelerator.num_processes,
            fingerprint=fingerprint(settings, self.splits),
            facts=decisive_facts(settings, self.splits, self.model, given=model is not None),
        )

    def report(self, line: str) -> None:
        """A line on stderr, once however many ranks there are."""
        if self.accelerator.is_main_process:
            report("reward-core", line)

    def train(self, resume: str | Path | None = None) -> Path:
        """Train until done, or go on where a run in the same folder stopped.

        Args:
            resume: a checkpoint to go on from instead of the newest; what came after it is forgotten.

        Returns:
            The run's folder, which ``reward_core.load`` reads.

        Raises:
            TrainingError: ten steps in a row without a finite loss or gradient.
            KeyboardInterrupt: after the state was saved.
            OutputError: another run is at work on the folder, or it cannot be written to.
        """
        with exclusive_run(self.accelerator, self.out, self.report), warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptTruncatedWarning)  # said once, above
            warnings.simplefilter("ignore", EmptyPromptWarning)
            return self._train(resume)

    def _train(self, resume: str | Path | None) -> Path:
        accelerator, settings, steps = self.accelerator, self.settings, len(self.plan.steps)
        started = time.perf_counter()
        restored = self._restore(resume)
        if not restored:
            torch.manual_seed(settings.seed + accelerator.process_index)  # of dropout
        if accelerator.is_main_process:
            self.metrics.keep_until(self.state.step if restored else -1)
        if settings.trackers:
            accelerator.init_trackers(
                self.out.resolve().name, config={"settings": json.dumps(settings.to_dict())}
            )
        self.wrapped.train()
        if not restored and "validation" in self.readers:
            self._validate()
        ahead = self._read_ahead(self.state.step)
        with (
            Interruption(accelerator) as interruption,
            step_bar(steps, self.state.step, accelerator.is_main_process) as progress,
        ):
            while self.state.step < steps and not self.state.stopped:
                batches, ahead = ahead, self._read_ahead(self.state.step + 1)
                row = self.step(batches)
                self.state.step += 1
                self._log(row)
                progress(row)
                self._check_health(row)
                due = self.state.step in self.plan.validation_steps
                if due and "validation" in self.readers:
                    self._validate()
                every = settings.checkpoint_every
                if (
                    self.state.stopped
                    or self.state.step == steps
                    or (self.state.step % every == 0 if every else due)
                ):
                    self._save()
                if interruption.requested():
                    self._save()
                    self.report(f"stopped after step {self.state.step}; the same command goes on from there")
                    raise KeyboardInterrupt
        if self.state.skipped >= self.state.step > 0:
            raise TrainingError(self._nothing_taken())
        if "validation" in self.readers and self.state.best is None:
            raise TrainingError(
                "no validation gave finite rewards, so no weights were kept. Likely reason: "
                + Health.why_not_finite(settings, accelerator.mixed_precision, finite_weights(self.rewards))
            )
        if "validation" not in self.readers:
            self.state.best_step = self.state.step
            self._save_best(None)
        run = TrainedRun(
            self.settings,
            accelerator,
            self.rewards,
            self.readers,
            self.splits,
            self.state.step,
            self.state.best_step,
            self.state.told,
            self.metrics,
            self.report,
            self._log,
        )
        return finish(run, time.perf_counter() - started)

    def step(self, batches: Sequence[Sequence[Future[ReadGroup | None]]]) -> dict[str, float]:
        """One optimizer step on this rank's micro-batches; what to log of it."""
        settings, state = self.settings, self.state
        share = rate_at(state.step, len(self.plan.steps), settings.warmup_steps, settings.schedule)
        set_rates(self.optimizers, share)
        row, usable = self.take_step(batches)
        if usable:
            state.skipped_in_a_row = 0
        else:
            state.skipped += 1
            state.skipped_in_a_row += row["pairs"] > 0
        lr = self.optimizers[0].param_groups[0]["lr"]
        return {"epoch": self.plan.steps[state.step].epoch, **row, "lr": lr, "skipped": state.skipped}

    def _read_ahead(self, number: int) -> list:
        """This rank's micro-batches of a step, being read."""
        if number >= len(self.plan.steps):
            return []
        step = self.plan.steps[number]
        mine = step.of_rank(self.accelerator.process_index, self.accelerator.num_processes)
        return [self.readers["train"].start(batch, step.epoch) for batch in mine]

    # Between steps

    def _check_health(self, row: dict[str, float]) -> None:
        state = self.state
        self.health.reported = set(state.told)
        for trouble in self.health.observe(
            state.step, row["loss"], row["gradient_norm"], row["reward_std"], row["lr"]
        ):
            self.report(f"warning: {trouble}")
        state.told = sorted(self.health.reported)
        if not row["pairs"]:
            self.report(f"warning: step {state.step} was not taken: none of its pairs of images can be read")
        elif state.skipped_in_a_row:
            self.report(f"warning: step {state.step} was not taken: its loss or gradient is not finite")
        if state.skipped_in_a_row >= MAX_SKIPPED:
            finite = finite_weights(self.rewards)
            why = Health.why_not_finite(self.settings, self.accelerator.mixed_precision, finite)
            raise TrainingError(
                f"{MAX_SKIPPED} steps in a row, up to step {state.step}, without a finite loss or gradient. "
                f"Likely reason: {why}"
            )

    def _nothing_taken(self) -> str:
        message = f"none of {self.state.step} steps was taken"
        bad = next(iter(self.readers["train"].skipped.items()), None)
        return f"{message}: images cannot be read, such as {bad[0]}: {bad[1]}" if bad else message

    def _validate(self) -> None:
        settings, state = self.settings, self.state
        source = f"the validation set of {Path(settings.data).name or 'the data'}"
        batch = settings.batch_size if settings.batch_unit == "groups" else 4
        found = validate(
            self.rewards, self.readers["validation"], self.accelerator, settings.average, batch, source
        )
        self._log(
            {
                "validation/loss": found.loss,
                "validation/accuracy": found.accuracy,
                "validation/per_prompt_accuracy": found.per_prompt_accuracy,
                "validation/reward_std": found.std,
            }
        )
        self.report(
            f"step {state.step} of {len(self.plan.steps)}: validation loss {found.loss:.4f}, "
            f"{found.accuracy:.1%} of {found.pairs:,} pairs ordered right"
        )
        if found.not_finite:
            self.report(f"warning: {found.not_finite_message()}; step {state.step} is not taken for the best")
        if not found.not_finite and (state.best is None or found.loss < state.best):
            state.best, state.best_step, state.worse = found.loss, state.step, 0
            self._save_best(found)
        else:
            state.worse += 1
            if settings.patience and state.worse >= settings.patience:
                state.stopped = f"{state.worse} validations in a row without a lower loss"
                self.report(f"stopped early at step {state.step}: {state.stopped}")

    def _save_best(self, found: ValidationResult | None) -> None:
        if self.accelerator.is_main_process:
            save_best(self.model, self.out, found)

    def _log(self, row: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with write_errors(self.out):
                self.metrics.add({"step": self.state.step, **row})
        if self.settings.trackers:
            self.accelerator.log({k: v for k, v in row.items() if math.isfinite(v)}, step=self.state.step)

    def _save(self) -> None:
        self.state.unreadable = gathered_unreadable(self.readers, self.accelerator)
        self.checkpoints.save(self.accelerator, self.rewards, self.optimizers, self.state)

    def _restore(self, resume: str | Path | None) -> bool:
        """Load the checkpoint asked for, or the newest; whether there was one."""
        found = self.checkpoints.all()
        if resume is None and not found:
            return False
        path = Path(resume) if resume is not None else found[-1]
        if resume is not None and not path.is_dir():
            raise InputError(f"{path}: no such checkpoint; there are {', '.join(map(str, found)) or 'none'}")
        self.state = self.checkpoints.load(path, self.accelerator, self.rewards, self.optimizers, self.state)
        for name, unreadable in self.state.unreadable.items():
            if name in self.readers:
                self.readers[name].skipped |= unreadable
        if self.accelerator.is_main_process:
            self.checkpoints.drop_after(self.state.step)
        self.accelerator.wait_for_everyone()
        self.report(f"goes on after step {self.state.step} ({path})")
        return True
