"""One optimizer step: losses, averaged gradients, clipping, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .data.prompts import Batches
from .gradients import average_gradients, clip_gradients, zero_gradient_share
from .memory.peak import PeakMemory
from .objectives.objective import MicroStep, Objective, RewardStatistics

if TYPE_CHECKING:
    from accelerate import Accelerator


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
        peak_memory_mb: peak GPU memory since the start, in MiB, with all memory of CUDA graphs; None on a
            CPU.
        values: name -> further value of the strategy, logged under that name.
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
    values: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """Return the row for metrics.jsonl."""
        row = {f"loss/{name}": value for name, value in self.loss_terms.items()}
        row |= {f"reward/{name}": reward.mean for name, reward in self.rewards.items()}
        row |= {f"reward/{name}/std": reward.std for name, reward in self.rewards.items()}
        row |= self.values
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
        objective: computes the losses of a step.
        batches: samples and prompts of each microstep.
        optimizer: the optimizer, prepared by accelerate.
        lr_schedule: the learning-rate schedule; advances after each step that is taken.
    """

    def __init__(self, objective: Objective, batches: Batches, optimizer: Any, lr_schedule: Any):
        self.objective, self.batches = objective, batches
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.trainable, self.accelerator = objective.trainable, objective.accelerator
        self.half_weights = objective.half_weights
        self.peak_memory = PeakMemory()
        # A held-out NaN skips no step.
        self.trained = [r.name for r in objective.config.rewards if r.weight]

    def __call__(self, number: int) -> StepMetrics:
        """Take step ``number``, counted from 0.

        A step is skipped if a trained reward or the gradient is not finite.
        """
        accelerator, objective, started = self.accelerator, self.objective, time.perf_counter()
        means = _Means(accelerator, objective.microsteps_per_step, self.trained)
        with self.trainable.inputs_uncast():
            for microstep in objective.microsteps(number, self.batches):
                accelerator.backward(microstep.loss / objective.microsteps_per_step)
                if self.half_weights is not None and not objective.keeps_half_gradients:
                    self.half_weights.add_gradients()
                means.add(microstep)
                del microstep  # frees its images and graph before the next one
        average_gradients(accelerator, self.trainable.parameters)
        norm, update = self._clip()
        means.exchange()
        whole = objective.statistics
        finite = math.isfinite(norm) and not means.nonfinite and (whole is None or whole.finite)
        self._update(finite, update)
        objective.finish(number)
        on_gpu = accelerator.device.type == "cuda"
        return StepMetrics(
            loss=means.loss,
            loss_terms=means.loss_terms(),
            rewards=means.rewards() if whole is None else whole.rewards,
            zero_gradient=means.zero_gradient if whole is None else whole.zero_gradient,
            gradient_norm=norm,
            lr=self.lr_schedule.get_last_lr()[0],
            images_per_s=self.batches.images / (time.perf_counter() - started),
            finite=finite,
            peak_memory_mb=self.peak_memory.bytes() / 2**20 if on_gpu else None,
            values=means.values() | ({} if whole is None else whole.values),
        )

    def _clip(self) -> tuple[float, Callable[[], None]]:
        """Clip the gradients; return their norm before, and the function that updates the weights."""
        optimizer, limit = self.optimizer, self.objective.config.optimizer.max_grad_norm
        weights = self.half_weights
        if weights is None or not self.objective.keeps_half_gradients:
            norm = clip_gradients(self.accelerator, optimizer, self.trainable.parameters, limit)
            return norm, optimizer.step
        total = weights.gradient_norm()
        scale = (limit / (total + 1e-6)).clamp(max=1.0) if limit else torch.ones_like(total)
        return float(total), partial(weights.step, optimizer, scale)

    def _update(self, finite: bool, update: Callable[[], None]) -> None:
        if finite:
            update()
            self.lr_schedule.step()
            self.trainable.update_ema()
        elif self.accelerator.scaler is not None:  # lower the loss scale after an overflow
            self.accelerator.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.half_weights is not None:
            self.half_weights.drop_gradients()


class _Means:
    """Means over micro-batches, then over ranks.

    Args:
        accelerator: averages over ranks.
        micro_batches: number of micro-batches per step.
        trained: names of the rewards that must be finite.
    """

    def __init__(self, accelerator: Accelerator, micro_batches: int, trained: Sequence[str]):
        self.accelerator, self.micro_batches, self.trained = accelerator, micro_batches, trained
        self.names: dict[str, list[str]] = {}
        self.sums: Tensor | None = None
        self.loss = self.zero_gradient = self.nonfinite = math.nan
        self._rest: list[float] = []

    def add(self, microstep: MicroStep) -> None:
        """Add a micro-batch after its backward pass."""
        rewards, pixels = microstep.rewards, microstep.pixels
        trained = [rewards[name].float().mean() for name in self.trained if name in rewards]
        nonfinite = (~torch.isfinite(torch.stack([microstep.loss.detach().float(), *trained]))).any()
        saturated = microstep.loss.new_zeros(()) if pixels is None else zero_gradient_share(pixels)
        groups = {
            "terms": microstep.loss_terms,
            "values": microstep.values,
            "rewards": {name: reward.mean() for name, reward in rewards.items()},
            "squares": {name: reward.double().pow(2).mean() for name, reward in rewards.items()},
        }
        self.names = {group: list(members) for group, members in groups.items()}
        values = [microstep.loss.detach(), saturated, nonfinite]
        values += [value for members in groups.values() for value in members.values()]
        device = self.accelerator.device
        row = torch.stack([value.to(device, torch.float64) for value in values]) / self.micro_batches
        self.sums = row if self.sums is None else self.sums + row

    def exchange(self) -> None:
        """Average over all ranks."""
        assert self.sums is not None
        mean = self.accelerator.reduce(self.sums, reduction="mean")
        self.loss, self.zero_gradient, self.nonfinite, *self._rest = mean.tolist()

    def loss_terms(self) -> dict[str, float]:
        return self._group("terms")

    def values(self) -> dict[str, float]:
        return self._group("values")

    def rewards(self) -> dict[str, RewardStatistics]:
        squares = self._group("squares")
        return {
            name: RewardStatistics(mean, math.sqrt(max(squares[name] - mean**2, 0.0)))
            for name, mean in self._group("rewards").items()
        }

    def _group(self, group: str) -> dict[str, float]:
        first = 0
        for name, members in self.names.items():
            if name == group:
                return dict(zip(members, self._rest[first : first + len(members)]))
            first += len(members)
        return {}
