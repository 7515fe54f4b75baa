"""One optimizer step: losses, averaged gradients, clipping, update."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .gradients import average_gradients, clip_gradients, zero_gradient_share
from .objective import MicroStep, Objective
from .prompts import DataOrder

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class RewardStatistics:
    """One reward over all images of a step: mean and standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of a step over all ranks.

    Attributes:
        loss: sum of all terms.
        loss_terms: term name -> value: reward, and distance and pretraining if they are used.
        rewards: reward name -> statistics, of trained and held-out rewards.
        zero_gradient: share of images with zero gradient, whose reward is saturated.
        gradient_norm: global norm of the gradient before clipping.
        lr: learning rate of the next step.
        images_per_s: images per second of all ranks together.
        finite: whether loss, trained rewards and gradient are finite, so that the step was taken.
        peak_memory_mb: peak GPU memory since the start, in MiB; None on a CPU.
    """

    loss: float
    loss_terms: dict[str, float]
    rewards: dict[str, RewardStatistics]
    zero_gradient: float
    gradient_norm: float
    lr: float
    images_per_s: float
    finite: bool
    peak_memory_mb: float | None = None

    def row(self) -> dict[str, float]:
        """Return the row for metrics.jsonl."""
        row = {f"loss/{name}": value for name, value in self.loss_terms.items()}
        row |= {f"reward/{name}": reward.mean for name, reward in self.rewards.items()}
        row |= {f"reward/{name}/std": reward.std for name, reward in self.rewards.items()}
        row |= {
            "loss": self.loss,
            "zero_gradient": self.zero_gradient,
            "gradient_norm": self.gradient_norm,
            "lr": self.lr,
            "images_per_s": self.images_per_s,
        }
        return row if self.peak_memory_mb is None else row | {"peak_memory_mb": self.peak_memory_mb}

    def summary(self) -> str:
        """Return the mean rewards as text for the progress bar."""
        return ", ".join(f"{name} {reward.mean:.3f}" for name, reward in self.rewards.items())


class TrainingStep:
    """Takes one optimizer step per call.

    Args:
        objective: computes the loss of a micro-batch.
        prompts: training prompts.
        optimizer: the optimizer, prepared by accelerate.
        lr_schedule: the learning-rate schedule; advances after each step that is taken.
    """

    def __init__(self, objective: Objective, prompts: Sequence[str], optimizer: Any, lr_schedule: Any):
        self.objective, self.prompts = objective, prompts
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.config, self.trainable = objective.config, objective.trainable
        self.accelerator, config = objective.accelerator, objective.config
        self.order = DataOrder(len(prompts), config.run.seed)
        self.trained = [r.name for r in config.rewards if r.weight]  # a held-out NaN skips no step

    def __call__(self, number: int) -> StepMetrics:
        """Take step ``number``, counted from 0.

        A step is skipped if a trained reward or the gradient is not finite.
        """
        config, accelerator, started = self.config, self.accelerator, time.perf_counter()
        run, optimizer = config.run, config.optimizer
        plan = config.strategy.plan(config.rollout.steps, random.Random(f"{run.seed} {number}"))
        means = _Means(accelerator, run.accumulation, self.trained)
        if self.objective.no_grad_copy is not None:
            self.objective.no_grad_copy.refresh()
        for micro in range(run.accumulation):
            indices = self._indices(number, micro, run.batch_size)
            prompts = [self.prompts[self.order[index]] for index in indices]
            pretraining = self._indices(number, micro, config.loss.pretraining_batch_size)
            microstep = self.objective.loss(number, indices, prompts, plan, pretraining)
            accelerator.backward(microstep.loss / run.accumulation)
            means.add(microstep)
            del microstep  # frees its images and graph before the next one
        parameters = self.trainable.parameters
        average_gradients(accelerator, parameters)
        norm = clip_gradients(accelerator, self.optimizer, parameters, optimizer.max_grad_norm)
        means.exchange()
        finite = math.isfinite(norm) and not means.nonfinite
        self._update(finite)
        images = run.batch_size * run.accumulation * accelerator.num_processes
        on_gpu = accelerator.device.type == "cuda"
        return StepMetrics(
            loss=means.loss,
            loss_terms=means.loss_terms(),
            rewards=means.rewards(),
            zero_gradient=means.zero_gradient,
            gradient_norm=norm,
            lr=self.lr_schedule.get_last_lr()[0],
            images_per_s=images / (time.perf_counter() - started),
            finite=finite,
            peak_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        )

    def _update(self, finite: bool) -> None:
        if finite:
            self.optimizer.step()
            self.lr_schedule.step()
            self.trainable.update_ema()
        elif self.accelerator.scaler is not None:  # lower the loss scale after an overflow
            self.accelerator.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _indices(self, number: int, micro: int, batch_size: int) -> list[int]:
        """Return this rank's sample indices for one micro-batch."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = ((number * self.config.run.accumulation + micro) * ranks + rank) * batch_size
        return list(range(first, first + batch_size))


class _Means:
    """Means over micro-batches, then over ranks.

    Args:
        accelerator: averages over ranks.
        micro_batches: number of micro-batches per step.
        trained: names of the rewards that must be finite.
    """

    def __init__(self, accelerator: Accelerator, micro_batches: int, trained: Sequence[str]):
        self.accelerator, self.micro_batches, self.trained = accelerator, micro_batches, trained
        self.terms: list[str] = []
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.loss = self.zero_gradient = self.nonfinite = math.nan
        self._rest: list[float] = []

    def add(self, microstep: MicroStep) -> None:
        """Add a micro-batch after its backward pass."""
        self.terms, self.names = list(microstep.loss_terms), list(microstep.rewards)
        rewards = microstep.rewards
        checked = [microstep.loss.detach().float(), *(rewards[name].float().mean() for name in self.trained)]
        nonfinite = (~torch.isfinite(torch.stack(checked))).any()
        values = [
            microstep.loss.detach(),
            zero_gradient_share(microstep.pixels),
            nonfinite,
            *microstep.loss_terms.values(),
        ]
        values += [reward.mean() for reward in rewards.values()]
        values += [reward.double().pow(2).mean() for reward in rewards.values()]
        device = self.accelerator.device
        row = torch.stack([value.to(device, torch.float64) for value in values]) / self.micro_batches
        self.sums = row if self.sums is None else self.sums + row

    def exchange(self) -> None:
        """Average over all ranks."""
        assert self.sums is not None
        mean = self.accelerator.reduce(self.sums, reduction="mean")
        self.loss, self.zero_gradient, self.nonfinite, *self._rest = mean.tolist()

    def loss_terms(self) -> dict[str, float]:
        return dict(zip(self.terms, self._rest))

    def rewards(self) -> dict[str, RewardStatistics]:
        values = self._rest[len(self.terms) :]
        means, squares = values[: len(self.names)], values[len(self.names) :]
        return {
            name: RewardStatistics(mean, math.sqrt(max(square - mean**2, 0.0)))
            for name, mean, square in zip(self.names, means, squares)
        }
