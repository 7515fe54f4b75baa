"""One training step: forward and backward of all micro-batches, all-reduce, clipping, update."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..runs.cuda import upload
from ..runs.random_state import random_state, restore_random_state
from ..scoring.batching import is_out_of_memory
from .config import TrainingConfig
from .group_reader import ReadGroup
from .group_rewards import GroupRewards
from .pairs import pairwise_accuracy
from .ranking_loss import loss_terms, ranking_loss_sum
from .token_cache import TokenCache

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step over all ranks.

    loss, accuracy, gradient_norm and reward_std are NaN if no pair of the step could be read.

    Attributes:
        epoch: index of the epoch.
        loss: mean over the batch.
        accuracy: fraction of the pairs ordered correctly.
        gradient_norm: norm before clipping.
        reward_std: standard deviation of the rewards.
        pairs: number of untied pairs of images.
        images_per_s: images per second, over all ranks.
        lr: learning rate of the first optimizer.
        finite: whether loss and gradient are finite; otherwise the optimizers skipped the step.
        peak_memory_mb: peak GPU memory of the run so far, in MiB; None on a CPU.
    """

    epoch: int
    loss: float
    accuracy: float
    gradient_norm: float
    reward_std: float
    pairs: int
    images_per_s: float
    lr: float
    finite: bool
    peak_memory_mb: float | None = None

    def row(self) -> dict[str, float]:
        """Return the line of metrics.jsonl."""
        row = asdict(self)
        del row["finite"]
        if self.peak_memory_mb is None:
            del row["peak_memory_mb"]
        return row

    def summary(self) -> str:
        """Return a short text for the progress bar."""
        return f"loss {self.loss:.3f}, accuracy {self.accuracy:.1%}, {self.images_per_s:.1f} images/s"


# Values that are summed over micro-batches and ranks.
_SUMS = ("loss", "correct", "pairs", "images", "not_finite", "rewards", "squares")


@dataclass(frozen=True)
class _Pass:
    """The results of a micro-batch, on the device: its loss and rewards without gradient."""

    ranks: Sequence[tuple[int, ...]]
    loss: Tensor
    rewards: Tensor


def _sums_of_pass(ranks: Sequence[tuple[int, ...]], loss: float, values: Tensor) -> Tensor:
    """Return the values of a micro-batch for the sums, in order of _SUMS."""
    if not ranks:
        return torch.zeros(len(_SUMS), dtype=torch.float64)
    by_group = values.split([len(ranking) for ranking in ranks])
    counts = [pairwise_accuracy(group, ranking) for group, ranking in zip(by_group, ranks)]
    correct, pairs = map(sum, zip(*counts))
    not_finite = not values.isfinite().all()
    return torch.tensor(
        [loss, correct, pairs, len(values), not_finite, values.sum(), values.square().sum()],
        dtype=torch.float64,
    )


class TrainingStep:
    """Take one optimizer step per call.

    The loss is the loss of the whole batch over all ranks and micro-batches: each pass divides its sum by
    the number of terms of the whole batch. Ranks exchange gradients in the last pass only. Merged passes are
    split when memory runs out, and the step is computed again.

    Args:
        settings: the run's settings.
        accelerator: the run's devices and processes.
        rewards: the module to train.
        wrapped: the same module, prepared by accelerate.
        optimizers: prepared by accelerate.
        cache: cached tokens of the training images, or None.
    """

    def __init__(
        self,
        settings: TrainingConfig,
        accelerator: Accelerator,
        rewards: GroupRewards,
        wrapped: nn.Module,
        optimizers: Sequence[Any],
        cache: TokenCache | None,
    ):
        self.settings, self.accelerator, self.cache = settings, accelerator, cache
        self.rewards, self.wrapped, self.optimizers = rewards, wrapped, optimizers
        self.parameters = [p for p in rewards.parameters() if p.requires_grad]
        merges = settings.merge_passes
        merges = accelerator.device.type == "cuda" if merges is None else merges
        alone = accelerator.num_processes == 1
        self.micro_batches_per_pass = settings.accumulation if merges and alone else 1

    def __call__(self, batches: Sequence[Sequence[Future[ReadGroup | None]]], epoch: int) -> StepMetrics:
        """Take one step on micro-batches whose images are being read.

        The optimizers skip the step if its loss or gradient is not finite, or if no pair can be read.
        """
        accelerator, started = self.accelerator, time.perf_counter()
        local = [[g for future in batch if (g := future.result()) is not None] for batch in batches]
        terms = loss_terms([group.ranks for batch in local for group in batch], self.settings.average)
        total = int(self._sum_over_ranks(torch.tensor(terms)))
        passes = [batch for batch in local if batch] if accelerator.num_processes == 1 else local
        results = self._run(passes, total) if total else []  # skipped if no pair can be read
        norm, sums = self._fetch(results, self._clip()) if total else (math.nan, torch.zeros(len(_SUMS)))
        totals = dict(zip(_SUMS, self._sum_over_ranks(sums.float()).tolist()))
        usable = math.isfinite(norm) and not totals["not_finite"]
        if total:
            self._update(usable)
        count = max(totals["images"], 1)
        variance = totals["squares"] / count - (totals["rewards"] / count) ** 2
        on_gpu = accelerator.device.type == "cuda"
        return StepMetrics(
            epoch=epoch,
            loss=totals["loss"] if total else math.nan,
            accuracy=totals["correct"] / totals["pairs"] if total else math.nan,
            gradient_norm=norm,
            reward_std=math.sqrt(max(variance, 0.0)) if total and math.isfinite(variance) else math.nan,
            pairs=int(totals["pairs"]),
            images_per_s=totals["images"] / (time.perf_counter() - started),
            lr=self.optimizers[0].param_groups[0]["lr"],
            finite=usable,
            peak_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        )

    def _run(self, micro_batches: Sequence[Sequence[ReadGroup]], total: int) -> list[_Pass]:
        """Run forward and backward on all micro-batches, in fewer passes if these are merged."""
        results = None
        while results is None:
            several = self.micro_batches_per_pass > 1
            state = random_state() if several else None
            try:
                results = self._run_passes(micro_batches, total)
            except Exception as error:
                if not several or not is_out_of_memory(error):
                    raise
            if results is None and state is not None:  # the error, whose frames hold activations, is gone
                self._split_passes()
                restore_random_state(state)
        return results

    def _split_passes(self) -> None:
        """Merge half as many micro-batches from now on, and drop the gradients of the step."""
        self.micro_batches_per_pass = self.micro_batches_per_pass // 2
        logger.info("memory ran out: %d micro-batches a pass from now on", self.micro_batches_per_pass)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_passes(self, micro_batches: Sequence[Sequence[ReadGroup]], total: int) -> list[_Pass]:
        count, results = self.micro_batches_per_pass, []
        passes = [
            [group for batch in micro_batches[i : i + count] for group in batch]
            for i in range(0, len(micro_batches), count)
        ]
        for i, groups in enumerate(passes):
            is_last = i + 1 == len(passes)
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                results.append(self._pass(groups, total))
        return results

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        """Return the sum of CPU tensors over all ranks."""
        if self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(upload(values, self.accelerator.device), reduction="sum")

    def _pass(self, groups: Sequence[ReadGroup], total: int) -> _Pass:
        """Run forward and backward on one micro-batch."""
        accelerator = self.accelerator
        with accelerator.autocast():
            inputs = self.rewards.inputs(groups, self.cache) if groups else self.rewards.dummy_inputs()
        rewards = self.wrapped(*inputs).float()
        if not groups:  # other ranks have one more micro-batch, and the all-reduce needs every rank
            accelerator.backward(rewards.sum() * 0)
            return _Pass([], rewards.new_zeros(()), rewards[:0].detach())
        ranks = [group.ranks for group in groups]
        loss = ranking_loss_sum(rewards, ranks, self.settings.average) / total
        accelerator.backward(loss * accelerator.num_processes)  # the all-reduce averages over ranks
        return _Pass(ranks, loss.detach(), rewards.detach())

    def _fetch(self, passes: Sequence[_Pass], norm: Tensor) -> tuple[float, Tensor]:
        """Return the norm, and the sums of this rank's values in order of _SUMS.

        All values are copied from the GPU at once, because each copy waits for it.
        """
        on_device = [norm.view(1), *(part.flatten() for p in passes for part in (p.loss, p.rewards))]
        fetched = torch.cat([part.float() for part in on_device]).cpu().double()
        sums, start = torch.zeros(len(_SUMS), dtype=torch.float64), 1
        for one in passes:
            stop = start + 1 + len(one.rewards)
            sums += _sums_of_pass(one.ranks, float(fetched[start]), fetched[start + 1 : stop])
            start = stop
        return float(fetched[0]), sums

    def _clip(self) -> Tensor:
        """Clip the gradient; return its norm before clipping."""
        limit = self.settings.clip or float("inf")
        return self.accelerator.clip_grad_norm_(self.parameters, limit)

    def _update(self, usable: bool) -> None:
        # A gradient scaler skips the step itself and then lowers its scale.
        if usable or self.accelerator.scaler is not None:
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
