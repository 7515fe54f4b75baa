"""One step of training: forward and backward over a rank's micro-batches, one exchange, clip, update."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config import TrainingConfig
from .group_reader import ReadGroup
from .group_rewards import GroupRewards
from .pairs import pairwise_accuracy
from .ranking_loss import loss_terms, ranking_loss_sum
from .token_cache import TokenCache

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class StepMetrics:
    """What a step measured over all ranks.

    Attributes:
        epoch: number of the epoch, from 0.
        loss: mean of the batch; NaN if no pair could be read.
        accuracy: share of pairs ordered right; NaN likewise.
        gradient_norm: before clipping; NaN likewise.
        reward_std: standard deviation of the rewards; NaN likewise.
        pairs: untied pairs of images.
        images_per_s: images of all ranks in a second.
        lr: learning rate of the first optimizer.
        finite: whether loss and gradient are finite, so that the optimizer took the step.
        peak_memory_mb: of the GPU so far; None on a CPU.
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
        """Return a few words for the progress bar."""
        return f"loss {self.loss:.3f}, accuracy {self.accuracy:.1%}, {self.images_per_s:.1f} images/s"


# What is added up over micro-batches and ranks.
_SUMS = ("loss", "right", "pairs", "pictures", "not_finite", "rewards", "squares")


class TrainingStep:
    """Calling it takes one optimizer step.

    The loss is that of the whole batch, over all ranks and micro-batches: each pass divides its sum by the
    number of terms that the whole has. With several ranks gradients are exchanged in the last pass only.

    Args:
        rewards: the module that is trained. wrapped: the same, as accelerate prepared it.
        optimizers: as accelerate prepared them.
        cache: of the training images, if any.
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

    def __call__(self, batches: Sequence[Sequence[Future[ReadGroup | None]]], epoch: int) -> StepMetrics:
        """Take a step on micro-batches that are being read.

        The optimizer skips a step whose loss or gradient is not finite, and one of which no pair can be read.
        """
        accelerator, started = self.accelerator, time.perf_counter()
        own = [[g for future in batch if (g := future.result()) is not None] for batch in batches]
        terms = loss_terms([group.ranks for batch in own for group in batch], self.settings.average)
        total = int(accelerator.reduce(torch.tensor(terms, device=accelerator.device), reduction="sum"))
        sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        passes = [batch for batch in own if batch] if accelerator.num_processes == 1 else own
        for i, batch in enumerate(passes if total else ()):  # nothing at all could be read: no step
            if i + 1 < len(passes):
                with accelerator.no_sync(self.wrapped):
                    sums += self._pass(batch, total)
            else:
                sums += self._pass(batch, total)
        sums = accelerator.reduce(sums.to(accelerator.device, torch.float32), reduction="sum")
        found = dict(zip(_SUMS, sums.tolist()))
        norm = self._clip() if total else math.nan
        usable = math.isfinite(norm) and not found["not_finite"]
        if total:
            self._update(usable)
        count = max(found["pictures"], 1)
        variance = found["squares"] / count - (found["rewards"] / count) ** 2
        on_gpu = accelerator.device.type == "cuda"
        return StepMetrics(
            epoch=epoch,
            loss=found["loss"] if total else math.nan,
            accuracy=found["right"] / found["pairs"] if total else math.nan,
            gradient_norm=norm,
            reward_std=math.sqrt(max(variance, 0.0)) if total and math.isfinite(variance) else math.nan,
            pairs=int(found["pairs"]),
            images_per_s=found["pictures"] / (time.perf_counter() - started),
            lr=self.optimizers[0].param_groups[0]["lr"],
            finite=usable,
            peak_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        )

    def _pass(self, groups: Sequence[ReadGroup], total: int) -> Tensor:
        """Forward and backward of one micro-batch; what it adds to the sums."""
        accelerator = self.accelerator
        with accelerator.autocast():
            inputs = self.rewards.inputs(groups, self.cache) if groups else self.rewards.nothing()
        rewards = self.wrapped(*inputs).float()
        if not groups:  # others have one more: their exchange of gradients needs every rank
            accelerator.backward(rewards.sum() * 0)
            return torch.zeros(len(_SUMS), dtype=torch.float64)
        ranks = [group.ranks for group in groups]
        loss = ranking_loss_sum(rewards, ranks, self.settings.average) / total
        accelerator.backward(loss * accelerator.num_processes)  # over which gradients are averaged
        values = rewards.detach().double().cpu()
        own = values.split([len(ranking) for ranking in ranks])
        counted = [pairwise_accuracy(some, ranking) for some, ranking in zip(own, ranks)]
        right, pairs = map(sum, zip(*counted))
        not_finite = not values.isfinite().all()
        return torch.tensor(
            [loss.item(), right, pairs, len(values), not_finite, values.sum(), values.square().sum()],
            dtype=torch.float64,
        )

    def _clip(self) -> float:
        """Bound the gradient's norm; the norm that it had."""
        limit = self.settings.clip or float("inf")
        return float(self.accelerator.clip_grad_norm_(self.parameters, limit))

    def _update(self, usable: bool) -> None:
        # A gradient scaler skips by itself, and must learn of it.
        if usable or self.accelerator.scaler is not None:
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
