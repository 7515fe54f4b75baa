"""The training loop: rollouts, losses, one optimizer step at a time; logs, validates, saves, resumes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoints, RunState
from .config import TrainConfig, load_config
from .errors import ConfigError, DivergedError
from .families import Guidance, load_family
from .gradients import average_gradients, clip_gradients, zero_gradient_share
from .interruption import Interruption
from .losses import denoising_loss, distance
from .noise_schedule import training_levels
from .pretraining import open_captioned
from .prompts import DataOrder, read_prompts
from .report import METRICS, MetricsFile, draw_curves, model_card
from .rewards import RewardFunction, load_rewards
from .rollout import SampleNoise, rollout
from .strategies import RolloutPlan
from .trainable import Trainable
from .validation import Validation, diversity, grid

MAX_SKIPPED = 10  # steps in a row without a finite reward or gradient that stop a run
PICTURES, PRETRAINING = 0, 1  # purposes of noise, so that they draw differently


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
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration, set_seed
        from diffusers.optimization import get_scheduler

        config = args or load_config(preset="sd14-paper")
        if model is not None:
            config = load_config_with(config, model)
        self.config = config.check()
        self.out = Path(config.run.out)
        prompts = prompts if prompts is not None else config.prompts
        if isinstance(prompts, (str, os.PathLike)):
            if not os.fspath(prompts):
                raise ConfigError("prompts: no file of prompts given")
            prompts = read_prompts(prompts)
        self.prompts, self.validation_prompts = _split(list(prompts), config.validation.prompts)

        self.accelerator = accelerator = Accelerator(
            mixed_precision=config.run.mixed_precision,
            log_with=list(config.run.trackers) or None,
            project_config=ProjectConfiguration(str(self.out), str(self.out / "logs")),
            cpu=config.run.cpu,
        )
        if accelerator.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.run.tf32
        set_seed(config.run.seed)  # the adapters' first weights: the same on every rank
        self.family = family = load_family(
            config.model.id,
            revision=config.model.revision,
            variant=config.model.variant,
            dtype=_frozen_dtype(config, accelerator.device),
        )
        self.height, self.width = self._size()
        self.schedule = family.schedule(config.rollout.steps, config.rollout.sampler, self.height, self.width)
        self.guidance = Guidance(config.rollout.guidance_scale, config.rollout.negative_gradient)
        self.rewards = load_rewards(config.rewards, accelerator.device, rewards)
        self.rewards.check(self.height, self.width, accelerator.device)
        self.captioned = open_captioned(config.loss) if config.loss.pretraining_data else None

        family.pipeline.to(accelerator.device)
        if config.model.vae_tiling:
            family.pipeline.vae.enable_tiling()
        if config.model.channels_last:
            family.denoiser.to(memory_format=torch.channels_last)
        self.trainable = Trainable(
            family, config.model, config.optimizer.ema_decay, keep_reference=config.loss.distance_weight > 0
        )
        if config.model.gradient_checkpointing:
            family.denoiser.enable_gradient_checkpointing()
            family.denoiser.train()  # diffusers checkpoints in training mode only
        if config.model.compile:
            family.denoiser.compile()
        self.optimizer = accelerator.prepare(_optimizer(config, self.trainable.parameters))
        self.lr_schedule = get_scheduler(
            config.optimizer.schedule,
            self.optimizer.optimizer,
            num_warmup_steps=config.optimizer.warmup_steps,
            num_training_steps=config.run.steps,
        )
        self.checkpoints = Checkpoints(self.out / "checkpoints", config.run.checkpoints)
        self.metrics = MetricsFile(self.out / METRICS)
        self.order = DataOrder(len(self.prompts), config.run.seed)
        self.state = RunState(processes=accelerator.num_processes, fingerprint=_fingerprint(config))

    def train(self, args: TrainConfig | None = None) -> Path:
        """Train until done, or go on where a run in the same folder stopped.

        Args:
            args: accepted for the original's call, ``trainer.train(args=args)``; the trainer has them already.

        Returns:
            The folder of the result: a LoRA or a pipeline, with its card.

        Raises:
            DivergedError: ten steps in a row without a finite reward or gradient; the state is saved.
            KeyboardInterrupt: after the state was saved.
        """
        config, accelerator = self.config, self.accelerator
        restored = self.checkpoints.load_latest(
            accelerator, self.trainable, self.lr_schedule, self.state.fingerprint
        )
        self.state = state = restored or self.state
        if accelerator.is_main_process:
            self.metrics.keep_until(state.step)
            if config.run.trackers:
                accelerator.init_trackers(self.out.name, config={"settings": json.dumps(config.to_dict())})
        if restored is None:
            self._validate()
        with Interruption(accelerator) as interruption, self._progress() as progress:
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
                    accelerator.print(
                        f"refl: stopped after step {state.step}; the same command goes on from there"
                    )
                    raise KeyboardInterrupt
        return self._finish()

    # One step

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step; what to log of it."""
        config, accelerator = self.config, self.accelerator
        run, started = config.run, time.perf_counter()
        plan = config.strategy.plan(config.rollout.steps, random.Random(f"{run.seed} {number}"))
        sums: dict[str, Tensor] = {}
        for micro in range(run.accumulation):
            loss, terms = self._loss(number, micro, plan)
            accelerator.backward(loss / run.accumulation)
            terms["zero_gradient"] = zero_gradient_share(self._pixels_seen)
            terms["nonfinite"] = (~torch.isfinite(loss.detach())).float()
            for name, value in terms.items():
                value = torch.as_tensor(value, dtype=torch.float64, device=accelerator.device)
                sums[name] = sums.get(name, 0) + value / run.accumulation
        average_gradients(accelerator, self.trainable.parameters)
        norm = clip_gradients(
            accelerator, self.optimizer, self.trainable.parameters, config.optimizer.max_grad_norm
        )
        totals = accelerator.reduce(torch.stack([*sums.values()]), reduction="mean")
        row = dict(zip(sums, totals.tolist()))
        usable = math.isfinite(norm) and row.pop("nonfinite") == 0
        row.pop("nonfinite", None)
        if usable or accelerator.scaler is not None:  # a scaler skips by itself, and must learn of it
            if not usable:
                _spoil(self.trainable.parameters)
            self.optimizer.step()
        if usable:
            self.state.skipped_in_a_row = 0
            self.lr_schedule.step()
            self.trainable.update_average()
        else:
            self.state.skipped += 1
            self.state.skipped_in_a_row += 1
            accelerator.print(f"refl: step {number + 1} skipped: a reward or the gradient is not finite")
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

    def places(self, number: int, micro: int, batch_size: int) -> list[int]:
        """This rank's places in the endless sequence of samples, for one microstep."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = ((number * self.config.run.accumulation + micro) * ranks + rank) * batch_size
        return list(range(first, first + batch_size))

    def _loss(self, number: int, micro: int, plan: RolloutPlan) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        places = self.places(number, micro, config.run.batch_size)
        prompts = [self.prompts[self.order[place]] for place in places]
        noise = SampleNoise(config.run.seed, number, places, PICTURES)
        with self.accelerator.autocast():
            result, denoise = self._rollout(prompts, noise, plan)
        pixels = self.family.decode(result.latents, config.rollout.recompute)
        self._pixels_seen = pixels
        if pixels.requires_grad:
            pixels.retain_grad()
        repeated = prompts * (1 + plan.copies)
        losses, values = self.rewards.loss(pixels, repeated)
        loss = config.loss.reward_scale * losses.mean()
        terms = {"loss/reward": loss.detach()}
        values |= self.rewards.watch(pixels.detach(), repeated)
        for name, rewards in values.items():
            terms[f"reward/{name}"] = rewards.mean()
            terms[f"square/{name}"] = rewards.double().pow(2).mean()
        if config.loss.distance_weight:
            far = config.loss.distance_weight * self._distance(result.visits, denoise)
            loss, terms["loss/distance"] = loss + far, far.detach()
        if self.captioned is not None:
            ordinary = config.loss.pretraining_weight * self._pretraining_loss(number, micro)
            loss, terms["loss/pretraining"] = loss + ordinary, ordinary.detach()
        terms["loss"] = loss.detach()
        return loss, terms

    def _rollout(self, prompts: Sequence[str], noise: SampleNoise, plan: RolloutPlan):
        family, device = self.family, self.accelerator.device
        guided = self.guidance.scale != 1
        condition = family.encode(prompts, self.config.rollout.negative_prompt if guided else None)
        shape = family.latent_shape(self.height, self.width)

        def denoise(x: Tensor, i: int) -> Tensor:
            return family.denoise(x, self.schedule.timesteps[i], condition, self.guidance)

        def draw() -> Tensor:
            return noise(shape, device)

        return rollout(denoise, self.schedule, plan, draw(), draw, self.config.rollout.recompute), denoise

    def _distance(self, visits: list[tuple[int, Tensor, Tensor]], denoise: Any) -> Tensor:
        total = 0.0
        for i, x, output in visits:
            with torch.no_grad(), self.trainable.reference(), self.accelerator.autocast():
                reference = denoise(x, i)
            total = total + distance(self.schedule, i, x, output, reference, self.config.loss.distance)
        return total / len(visits)

    def _pretraining_loss(self, number: int, micro: int) -> Tensor:
        config, family, device = self.config.loss, self.family, self.accelerator.device
        places = self.places(number, micro, config.pretraining_batch_size)
        order = DataOrder(len(self.captioned), self.config.run.seed)
        pixels, captions = self.captioned.batch([order[p] for p in places], self.height, self.width)
        noise = SampleNoise(self.config.run.seed, number, places, PRETRAINING)
        shape = family.latent_shape(self.height, self.width)
        x0 = family.encode_pixels(pixels.to(device), noise(shape, device))
        timesteps, alphas, sigmas = (level.to(device) for level in training_levels(family.pipeline.scheduler))
        levels = (noise.uniform() * len(timesteps)).long().to(device)
        alpha, sigma = alphas[levels], sigmas[levels]
        added = noise(shape, device)
        x = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * added
        with self.accelerator.autocast():
            output = family.denoise(x, timesteps[levels], family.encode(captions), Guidance())
        return denoising_loss(x0, added, output, alpha, sigma, self.schedule.prediction)

    # Between steps

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 0) -> Tensor:
        """Pictures as in training, without gradient: (B prompts, B seeds) -> (B, 3, H, W) in [0, 1]."""
        rollout_config = self.config.rollout
        steps = steps or rollout_config.steps
        schedule, self.schedule = (
            self.schedule,
            self.family.schedule(steps, rollout_config.sampler, self.height, self.width),
        )
        try:
            with self.accelerator.autocast():
                plan = RolloutPlan(steps - 1, (), read="latents")
                result, _ = self._rollout(prompts, SampleNoise(0, 0, seeds, 2), plan)
            return self.family.decode(result.latents)
        finally:
            self.schedule = schedule

    def _validate(self) -> None:
        config, state = self.config.validation, self.state
        if not self.validation_prompts:
            return
        found = self.validate()
        row = {f"validation/{name}": value for name, value in found.rewards.items()}
        row["validation/diversity"] = found.diversity
        if self.accelerator.is_main_process:
            grid(found.pixels, config.seeds, self.out / "samples" / f"step-{state.step:06d}.png")
            self._log(row)
        if state.diversity is None:
            state.diversity = found.diversity
        elif found.diversity < config.stop_diversity * state.diversity:
            state.stopped = f"pictures of one prompt differ by {found.diversity:.3f}, {state.diversity:.3f} before training"
        if config.stop_reward:
            value = found.rewards[config.stop_reward]
            if state.best is None or value >= state.best:
                state.best, state.worse = value, 0
            else:
                state.worse += 1
            if state.worse >= config.stop_patience:
                state.stopped = f"{config.stop_reward} fell to {value:.3f} from {state.best:.3f}"
        if state.stopped:
            self.accelerator.print(f"refl: stopped early at step {state.step}: {state.stopped}")

    def validate(self) -> Validation:
        """Make the validation pictures on all ranks and judge them with every reward."""
        config, accelerator = self.config.validation, self.accelerator
        wanted = [(p, seed) for p in self.validation_prompts for seed in range(config.seeds)]
        ranks, batch = accelerator.num_processes, config.batch_size or self.config.run.batch_size
        share = -(-len(wanted) // ranks)
        mine = [wanted[min(accelerator.process_index * share + i, len(wanted) - 1)] for i in range(share)]
        pictures, rewards = [], []
        with self.trainable.averaged():
            for start in range(0, share, batch):
                prompts, seeds = zip(*mine[start : start + batch])
                pixels = self.generate(prompts, seeds, config.steps)
                values = self.rewards.all(pixels, prompts)
                rewards.append(torch.stack([*values.values()], dim=1))
                pictures.append((pixels * 255).round().to(torch.uint8))
        everything = accelerator.gather(torch.cat(rewards))[: len(wanted)]
        pixels = accelerator.gather(torch.cat(pictures))[: len(wanted)].cpu()
        means = dict(zip(values, everything.double().mean(0).tolist()))
        return Validation(means, diversity(pixels.float() / 255, config.seeds), pixels)

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
            rows = self.metrics.read()
            self.trainable.save(folder)
            pipeline = type(self.family.pipeline).__name__
            card = model_card(config, rows, self.trainable.is_lora, pipeline)
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

    @contextlib.contextmanager
    def _progress(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = [
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        ]  # fmt: skip
        hidden = not (self.accelerator.is_main_process and console.is_terminal)
        with Progress(*columns, console=console, disable=hidden) as bar:
            task = bar.add_task("", total=self.config.run.steps, completed=self.state.step)

            def advance(row: dict[str, float]) -> None:
                shown = [f"{k.split('/', 1)[1]} {v:.3f}" for k, v in row.items() if k.startswith("reward/")]
                bar.update(task, advance=1, description=", ".join(s for s in shown if "/std" not in s))

            yield advance

    def _size(self) -> tuple[int, int]:
        height = self.config.rollout.height or self.family.default_size
        width = self.config.rollout.width or height
        multiple = self.family.size_multiple
        if height % multiple or width % multiple:
            raise ConfigError(
                f"rollout: {height} x {width} pixels; sides must be multiples of {multiple} here"
            )
        return height, width


def load_config_with(config: TrainConfig, model: str | os.PathLike[str]) -> TrainConfig:
    """The settings with another model."""
    from .config import override

    return override(config, {"model": {"id": os.fspath(model)}})


def _split(prompts: list[str], count: int) -> tuple[list[str], list[str]]:
    """(training prompts, validation prompts): apart where there are enough."""
    validation = prompts[-count:] if count else []
    return (prompts[:-count] if count and len(prompts) >= 4 * count else prompts), validation


def _frozen_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Of weights that are not trained; trained ones are float32."""
    if config.model.lora_rank == 0 or config.run.mixed_precision == "no":
        return torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[config.run.mixed_precision]


def _optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings = config.optimizer
    kind: Any = torch.optim.AdamW
    if settings.eight_bit:
        try:
            from bitsandbytes.optim import AdamW8bit as kind
        except ImportError as error:
            raise ConfigError("optimizer.eight_bit needs bitsandbytes: pip install bitsandbytes") from error
    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def _fingerprint(config: TrainConfig) -> str:
    """Of every setting that decides what is trained; others may change between a run's parts."""
    document = config.to_dict()
    for name in ("out", "checkpoint_every", "checkpoints", "trackers", "push_to_hub", "cpu"):
        document["run"].pop(name)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _spoil(parameters: list[torch.nn.Parameter]) -> None:
    """Make the scaler see that this step is not to be taken."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.fill_(math.inf)
