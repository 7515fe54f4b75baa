"""The training loop: fine-tunes a diffusion model against rewards."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reward_core.files.atomic_write import atomic_folder
from reward_core.printing.logger import default_logging
from reward_core.runs.cuda import tf32
from reward_core.runs.run_state import MAX_SKIPPED
from reward_core.runs.training_run import TrainingRun
from reward_core.runs.write_errors import write_errors

from .accelerator import make_accelerator
from .checkpoint import decisive_settings, fingerprint, what_is_trained
from .config import TrainConfig
from .config.checks import check_config
from .config.config_file import load_config, override
from .data.run_prompts import find_prompts, find_validation_prompts, split_prompts
from .errors import ConfigError, DivergedError
from .optimizer import make_lr_schedule, make_optimizer
from .publishing.result import FinishedRun, write_model, write_settings
from .records.curves import draw_curves
from .records.run_page import RunPage
from .records.sample_sheet import draw_sheet
from .records.samples import read_samples, samples_folder, write_samples
from .rewards import AnyReward
from .setup import (
    check_inputs,
    make_batches,
    make_family,
    make_no_grad_copy,
    make_objective,
    make_rewards,
    open_captions,
    prepare_denoiser,
)
from .step import StepMetrics, TrainingStep
from .trainable import Trainable
from .training_state import BestWeights, ReflState
from .validation import Validation, record_validation, validate

logger = logging.getLogger(__name__)


class Trainer:
    """Fine-tunes a diffusion model against rewards.

    Args:
        model: Hub id, pipeline folder or single file; None: ``args.model.id``.
        prompts: prompt file (see prompts.read_prompts) or a list of prompts; None: ``args.prompts``.
        args: settings of the run; None: the preset sd14-paper.
        rewards: name -> function, for rewards in ``args`` that are not models of reward_core: (pixels
            (N, 3, H, W) in [0, 1], N prompts) -> rewards (N,), or, with the strategies nft and grpo, (N PIL
            images, N prompts) -> N numbers. ``rewards[].input`` chooses otherwise.
        validation_prompts: file or list of validation prompts; None: ``args.validation.prompts_file``.

    Attributes:
        state: state of the run: finished steps, best validation, reason of an early stop.
        metrics: the run's metrics.jsonl.

    Raises:
        ReflError: invalid settings, prompts, model or rewards; raised before any long computation.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        prompts: str | os.PathLike[str] | Sequence[str] | None = None,
        args: TrainConfig | None = None,
        rewards: Mapping[str, AnyReward] | None = None,
        validation_prompts: str | os.PathLike[str] | Sequence[str] | None = None,
    ):
        default_logging("refl")
        config = args or load_config(preset="sd14-paper")
        if model is not None:
            config = override(config, {"model": {"id": os.fspath(model)}})
        self.config = config = check_config(config)
        self.out = Path(config.run.out)
        given = find_prompts(config, prompts), find_validation_prompts(config, validation_prompts)
        self.prompts, self.validation_prompts = split_prompts(*given, config.validation.prompts)
        check_inputs(config, rewards or {})
        captioned = open_captions(config)
        self.accelerator = accelerator = make_accelerator(config)
        batches = make_batches(config, accelerator, self.prompts)
        self.family = family = make_family(config, accelerator)
        loaded_rewards = make_rewards(config, family, accelerator, rewards, self.prompts)
        no_grad_copy = make_no_grad_copy(config, family, accelerator.device)
        family.move_to(accelerator.device, config.model.offload_text_encoders)
        self.trainable = Trainable(
            family,
            config.model,
            config.optimizer.ema_decay,
            keep_reference=config.loss.distance_weight > 0,
            keep_old=config.strategy.keeps_old_weights,
        )
        prepare_denoiser(config, family)
        parts = (family, loaded_rewards, self.trainable, accelerator, captioned, no_grad_copy)
        self.objective = make_objective(config, *parts)
        self.optimizer = accelerator.prepare(make_optimizer(config, self.trainable.parameters))
        self.lr_schedule = make_lr_schedule(config, self.optimizer.optimizer)
        self.take_step = TrainingStep(self.objective, batches, self.optimizer, self.lr_schedule)
        self.run = TrainingRun(
            what_is_trained(self.objective, self.optimizer, self.lr_schedule),
            self.out,
            ReflState(
                processes=accelerator.num_processes,
                fingerprint=fingerprint(config, self.prompts, self.validation_prompts, captioned),
                settings=decisive_settings(config),
            ),
            config.run.steps,
            config.run.checkpoints,
            config.run.trackers,
            config.to_dict(),
            logger,
        )
        self.best_weights = BestWeights(self.run.checkpoints.folder, self.trainable)
        self.metrics = self.run.metrics
        self.page = RunPage(self.out, config)

    @property
    def state(self) -> ReflState:
        return self.run.state

    def train(self, args: TrainConfig | None = None) -> Path:
        """Train to the end. Resume if the output folder has a checkpoint of this run.

        Args:
            args: unused; accepted for the original's call ``trainer.train(args=args)``.

        Returns:
            The folder of the result: a LoRA or a pipeline, with a model card.

        Raises:
            ConfigError: the run in the folder has taken more steps than ``run.steps``.
            DivergedError: ten steps in a row without a finite reward or gradient; the state is saved.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
            reward_core.errors.OutputError: another run is using the folder, or it is not writable.
            reward_core.errors.CheckpointError: the checkpoint is damaged or belongs to other settings.
        """
        config = self.config
        with self.run.exclusive():
            if not self.run.restore(check=self._check_length):
                self._validate()
            if self.state.stopped and self.state.step < config.run.steps:
                self.run.report(f"the run stopped early at step {self.state.step} and does not continue")
            with self.run.steps(self._save) as steps:
                for number in steps:
                    metrics = self.step(number)
                    self.run.finish_step(metrics, metrics.finite)
                    if not metrics.finite:
                        self._check_skipped()
                    if self._due(config.validation.every) or self.state.step == config.run.steps:
                        self._validate()
                    if self._due(config.run.checkpoint_every) or self.run.ended:
                        self._save()
                    if self.page.is_due():
                        self._write_page()
            return self._finish()

    def step(self, number: int) -> StepMetrics:
        """Take optimizer step ``number``, counted from 0."""
        with tf32(self.config.run.tf32):
            return self.take_step(number)

    def _check_length(self, state: ReflState) -> None:
        steps = self.config.run.steps
        if state.step > steps:
            raise ConfigError(
                f"Cannot train {steps} steps (run.steps) in '{self.out}': the run there has taken "
                f"{state.step}. Set run.steps to at least as many, or another run.out."
            )

    def _due(self, every: int) -> bool:
        return bool(every) and self.state.step % every == 0

    def _check_skipped(self) -> None:
        self.run.warn(f"step {self.state.step} was skipped: a reward or the gradient is not finite")
        if self.state.skipped_in_a_row >= MAX_SKIPPED:
            self._save()
            raise DivergedError(
                f"Cannot continue training in '{self.out}': {MAX_SKIPPED} steps in a row had no finite "
                f"reward or gradient. The state is saved in '{self.run.checkpoints.folder}'. Lower "
                "optimizer.lr or check the reward."
            )

    def _validate(self) -> None:
        config, state = self.config.validation, self.state
        if not self.validation_prompts:
            return
        batch = config.batch_size or self.config.run.batch_size
        with tf32(self.config.run.tf32):
            validation = validate(self.objective, self.validation_prompts, config, self.accelerator, batch)
        self.run.log(validation.row())
        is_best = record_validation(validation, config, state)
        if self.accelerator.is_main_process:
            self._write_samples(validation)
            if is_best and config.keep_best:
                self.best_weights.save(state.step)
        if state.stopped:
            self.run.report(f"stopped early at step {state.step}: {state.stopped}")

    def _write_samples(self, validation: Validation) -> None:
        """Write images, sheet and page of a validation."""
        step, seeds = self.state.step, self.config.validation.seeds
        with write_errors(self.out):
            samples = write_samples(
                self.out, step, self.validation_prompts, seeds, validation.scores, validation.pixels
            )
            base = next(iter(read_samples(self.out, [0])), None)
            draw_sheet(self.out, samples, base, samples_folder(self.out, step).with_suffix(".png"))
        self._write_page()

    def _write_page(self) -> None:
        if self.accelerator.is_main_process:
            with write_errors(self.out):
                self.page.write(self.metrics.read(), self.state)

    def _save(self) -> None:
        self.run.save()
        if self.accelerator.is_main_process:
            self.best_weights.remove_before(self.run.checkpoints.oldest_best_step())

    def _finish(self) -> Path:
        config, folder, run = self.config, self.out / "model", self.run
        if self.accelerator.is_main_process:
            rows, saved_step = self.metrics.read(), self.state.step
            if config.validation.keep_best and self.state.best is not None:
                saved_step = self.state.best_step
                self.best_weights.load(saved_step)
            finished = FinishedRun(
                config,
                self.trainable,
                rows,
                saved_step,
                self.prompts,
                self.validation_prompts,
                self.objective.rewards.sources,
            )
            with write_errors(self.out), atomic_folder(folder) as new:
                write_model(finished, new)
            with write_errors(self.out):
                draw_curves(self.page.write(rows, self.state, finished=True), self.out / "curves.png")
                write_settings(config)
        if config.run.push_to_hub:
            run.upload(folder, config.run.push_to_hub, "Upload a model fine-tuned with refl")
        run.close()
        return folder
