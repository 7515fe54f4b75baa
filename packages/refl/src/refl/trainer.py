"""The training loop: rollouts, losses, one optimizer step at a time; logs, validates, saves, resumes."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reward_core.printing.escapes import printable
from reward_core.runs.interruption import Interruption
from reward_core.runs.metrics_file import METRICS, MetricsFile
from reward_core.runs.run_lock import exclusive_run

from .captioned_images import open_captioned
from .checkpoint import Checkpoints, RunState, write_errors
from .config import TrainConfig
from .config_file import load_config, override
from .errors import ConfigError, DivergedError
from .families import load_family
from .gradients import average_gradients, clip_gradients, zero_gradient_share
from .objective import Objective, image_size
from .prompts import DataOrder, read_prompts
from .report import draw_curves, model_card
from .rewards import RewardFunction, load_rewards
from .setup import (
    fingerprint,
    frozen_dtype,
    make_accelerator,
    make_lr_schedule,
    make_optimizer,
    split_prompts,
)
from .step_bar import step_bar
from .trainable import Trainable
from .validation import grid, record_validation, validate

MAX_SKIPPED = 10  # steps in a row without a finite reward or gradient that stop a run


class Trainer:
    """Fine-tunes a diffusion model against rewards.

    Args:
        model: hub id, pipeline folder or single file; None: ``args.model.id``.
        prompts: file of prompts (see prompts.read_prompts), or a list of them; None: ``args.prompts``.
        args: the settings; None: the preset sd14-paper.
        rewards: callables by name, (pixels (N, 3, H, W) in [0, 1], prompts) -> (N,), for rewards in
            ``args`` that reward_core does not know.

    Raises:
        ReflError: whatever cannot work, before any long work.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        prompts: str | os.PathLike[str] | Sequence[str] | None = None,
        args: TrainConfig | None = None,
        rewards: Mapping[str, RewardFunction] | None = None,
    ):
        import diffusers
        from accelerate.utils import set_seed

        config = args or load_config(preset="sd14-paper")
        if model is not None:
            config = override(config, {"model": {"id": os.fspath(model)}})
        self.config = config.check()
        self.out = Path(config.run.out)
        prompts = prompts if prompts is not None else config.prompts
        if isinstance(prompts, (str, os.PathLike)):
            if not os.fspath(prompts):
                raise ConfigError("prompts: no file of prompts given")
            prompts = read_prompts(prompts)
        self.prompts, self.validation_prompts = split_prompts(list(prompts), config.validation.prompts)

        self.accelerator = accelerator = make_accelerator(config)
        diffusers.utils.logging.set_verbosity_error()  # it tells of every prompt that CLIP cuts off
        set_seed(config.run.seed)  # the adapters' first weights: the same on every rank
        self.family = family = load_family(
            config.model.id,
            revision=config.model.revision,
            variant=config.model.variant,
            dtype=frozen_dtype(config, accelerator.device),
        )
        height, width = image_size(config, family)
        for steps in (config.rollout.steps, config.validation.steps or config.rollout.steps):
            family.schedule(steps, config.rollout.sampler, height, width)  # errors, if it has any
        loaded_rewards = load_rewards(config.rewards, accelerator.device, rewards)
        loaded_rewards.check(height, width, accelerator.device)
        captioned = open_captioned(config.loss) if config.loss.pretraining_data else None

        family.pipeline.to(accelerator.device)
        if config.model.vae_tiling:
            family.pipeline.vae.enable_tiling()
        if config.model.channels_last:
            family.denoiser.to(memory_format=torch.channels_last)
        self.trainable = Trainable(
            family, config.model, config.optimizer.ema_decay, keep_reference=config.loss.distance_weight > 0
        )
        self.objective = Objective(config, family, loaded_rewards, self.trainable, accelerator, captioned)
        if config.model.gradient_checkpointing:
            family.denoiser.enable_gradient_checkpointing()
            family.denoiser.train()  # diffusers checkpoints in training mode only
        if config.model.compile:
            family.denoiser.compile()
        self.optimizer = accelerator.prepare(make_optimizer(config, self.trainable.parameters))
        self.lr_schedule = make_lr_schedule(config, self.optimizer.optimizer)
        self.checkpoints = Checkpoints(self.out / "checkpoints", config.run.checkpoints)
        self.metrics = MetricsFile(self.out / METRICS)
        self.order = DataOrder(len(self.prompts), config.run.seed)
        self.state = RunState(
            processes=accelerator.num_processes,
            fingerprint=fingerprint(config, self.prompts, self.validation_prompts, captioned),
        )

    def train(self, args: TrainConfig | None = None) -> Path:
        """Train until done, or go on where a run in the same folder stopped.

        Args:
            args: not needed; the original's call ``trainer.train(args=args)`` has it.

        Returns:
            The folder of the result: a LoRA or a pipeline, with its card.

        Raises:
            DivergedError: ten steps in a row without a finite reward or gradient; the state is saved.
            KeyboardInterrupt: after the state was saved.
            reward_core.errors.OutputError: another run is using the folder, or the folder is not writable.
        """
        with exclusive_run(self.accelerator, self.out, self._report):
            return self._train()

    def _train(self) -> Path:
        config, accelerator = self.config, self.accelerator
        restored = self.checkpoints.load_latest(
            accelerator, self.trainable, self.lr_schedule, self.state.fingerprint
        )
        self.state = state = restored or self.state
        if accelerator.is_main_process:
            self.metrics.keep_until(state.step if restored else -1)
            if config.run.trackers:
                accelerator.init_trackers(self.out.name, config={"settings": json.dumps(config.to_dict())})
        if restored is None:
            self._validate()
        with (
            Interruption(accelerator, "refl") as interruption,
            step_bar(self.accelerator, config.run.steps, state.step) as progress,
        ):
            while state.step < config.run.steps and not state.stopped:
                row = self.step(state.step)
                state.step += 1
                self._log(row)
                progress(row)
                if state.skipped_in_a_row >= MAX_SKIPPED:
                    self._save()
                    raise DivergedError(
                        f"{MAX_SKIPPED} steps in a row without a finite reward or gradient; the state is in "
                        f"{self.checkpoints.folder}"
                    )
                last = state.step == config.run.steps
                if last or (config.validation.every and state.step % config.validation.every == 0):
                    self._validate()
                every = config.run.checkpoint_every
                if last or state.stopped or (every and state.step % every == 0):
                    self._save()
                if interruption.requested():
                    self._save()
                    self._report(f"stopped after step {state.step}; the same command goes on from there")
                    raise KeyboardInterrupt
        return self._finish()

    # One step

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step; what to log of it."""
        config, accelerator = self.config, self.accelerator
        run, started = config.run, time.perf_counter()
        trained = [reward.name for reward in config.rewards if reward.weight]  # those watched decide nothing
        plan = config.strategy.plan(config.rollout.steps, random.Random(f"{run.seed} {number}"))
        sums: dict[str, Tensor] = {}
        for micro in range(run.accumulation):
            indices = self._indices(number, micro, run.batch_size)
            prompts = [self.prompts[self.order[index]] for index in indices]
            pretraining = self._indices(number, micro, config.loss.pretraining_batch_size)
            made = self.objective.loss(number, indices, prompts, plan, pretraining)
            accelerator.backward(made.loss / run.accumulation)
            untouched = zero_gradient_share(made.pixels)
            made.terms["zero_gradient"] = torch.tensor(untouched, dtype=torch.float64)
            seen = [made.loss.detach(), *(made.terms[f"reward/{name}"] for name in trained)]
            made.terms["nonfinite"] = (~torch.isfinite(torch.stack([v.float() for v in seen]))).any().float()
            for name, value in made.terms.items():
                value = torch.as_tensor(value, dtype=torch.float64, device=accelerator.device)
                sums[name] = sums.get(name, 0) + value / run.accumulation
            del made
        average_gradients(accelerator, self.trainable.parameters)
        norm = clip_gradients(
            accelerator, self.optimizer, self.trainable.parameters, config.optimizer.max_grad_norm
        )
        totals = accelerator.reduce(torch.stack([*sums.values()]), reduction="mean")
        row = dict(zip(sums, totals.tolist()))
        usable = math.isfinite(norm) and row.pop("nonfinite") == 0
        row.pop("nonfinite", None)
        if usable:
            self.optimizer.step()
            self.state.skipped_in_a_row = 0
            self.lr_schedule.step()
            self.trainable.update_ema()
        else:
            if accelerator.scaler is not None:  # scales down if the gradient overflowed, and is ready again
                accelerator.scaler.update()
            self.state.skipped += 1
            self.state.skipped_in_a_row += 1
            self._report(f"step {number + 1} skipped: a reward or the gradient is not finite")
        self.optimizer.zero_grad(set_to_none=True)
        for name in [name for name in row if name.startswith("square/")]:
            mean, square = row[f"reward/{name[7:]}"], row.pop(name)
            row[f"reward/{name[7:]}/std"] = math.sqrt(max(square - mean**2, 0.0))
        samples = run.batch_size * run.accumulation * accelerator.num_processes
        row |= {"gradient_norm": norm, "skipped": self.state.skipped, "lr": self.lr_schedule.get_last_lr()[0]}
        row["images_per_s"] = samples / (time.perf_counter() - started)
        if accelerator.device.type == "cuda":
            row["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        return row

    def _indices(self, number: int, micro: int, batch_size: int) -> list[int]:
        """This rank's places in the endless sequence of samples, for one microstep."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = ((number * self.config.run.accumulation + micro) * ranks + rank) * batch_size
        return list(range(first, first + batch_size))

    # Between steps

    def _validate(self) -> None:
        config, state, accelerator = self.config.validation, self.state, self.accelerator
        if not self.validation_prompts:
            return
        batch = config.batch_size or self.config.run.batch_size
        found = validate(self.objective, self.validation_prompts, config, accelerator, batch)
        if accelerator.is_main_process:
            grid(found.pixels, config.seeds, self.out / "samples" / f"step-{state.step:06d}.png")
        rewards = {f"validation/{name}": value for name, value in found.rewards.items()}
        self._log({**rewards, "validation/diversity": found.diversity})
        if record_validation(found, config, state) and config.keep_best and accelerator.is_main_process:
            self.checkpoints.save_best(self.trainable, state.step)
        if state.stopped:
            self._report(f"stopped early at step {state.step}: {state.stopped}")

    def _report(self, words: str) -> None:
        """On stderr: stdout belongs to whoever calls, for a report perhaps."""
        self.accelerator.print(f"refl: {printable(words)}", file=sys.stderr)

    def _log(self, row: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.metrics.add({"step": self.state.step, **row})
        if self.config.run.trackers:
            self.accelerator.log({k: v for k, v in row.items() if math.isfinite(v)}, step=self.state.step)

    def _save(self) -> None:
        self.checkpoints.save(self.accelerator, self.trainable, self.lr_schedule, self.state)

    def _finish(self) -> Path:
        config, folder = self.config, self.out / "model"
        if self.accelerator.is_main_process:
            rows, saved_step = self.metrics.read(), self.state.step
            if config.validation.keep_best and self.state.best is not None:
                saved_step = self.state.best_step
                self.checkpoints.load_best(self.trainable, saved_step)
            with write_errors(folder):
                self.trainable.save(folder)
            pipeline, lora = type(self.family.pipeline).__name__, self.trainable.is_lora
            card = model_card(config, rows, saved_step, lora, pipeline, len(self.validation_prompts))
            (folder / "README.md").write_text(card, encoding="utf-8")
            draw_curves(rows, self.out / "curves.png")
            if config.run.push_to_hub:
                from huggingface_hub import HfApi

                api = HfApi()
                repo = api.create_repo(config.run.push_to_hub, exist_ok=True).repo_id
                api.upload_folder(repo_id=repo, folder_path=folder)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return folder
