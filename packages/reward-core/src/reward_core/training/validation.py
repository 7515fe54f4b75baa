"""How well rewards order groups: loss, accuracy, and the rewards themselves, computed on all ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import torch

from ..errors import InputError
from ..network.score_quantiles import ScoreQuantiles
from .group_reader import GroupReader
from .group_rewards import GroupRewards
from .pairs import pairwise_accuracy
from .ranking_loss import loss_terms, ranking_loss_sum

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class ValidationResult:
    """Of a split.

    loss: as in training. accuracy: share of all untied pairs ordered right; per_prompt_accuracy: the mean
    over prompts of each one's share. mean, std, quantiles: of the head's output over all images, the
    quantiles after that mean and std are taken off. not_finite: of how many images it is NaN or infinite;
    if any, loss, mean and std are NaN, there are no quantiles, and their pairs count as ordered wrong.
    """

    loss: float
    accuracy: float
    per_prompt_accuracy: float
    pairs: int
    prompts: int
    images: int
    mean: float
    std: float
    quantiles: ScoreQuantiles | None
    not_finite: int = 0

    def row(self, split: str) -> dict[str, float]:
        """Return the line of metrics.jsonl."""
        return {
            f"{split}/loss": self.loss,
            f"{split}/accuracy": self.accuracy,
            f"{split}/per_prompt_accuracy": self.per_prompt_accuracy,
        }

    def not_finite_message(self) -> str:
        return f"rewards of {self.not_finite:,} of {self.images:,} images are not finite"


@torch.no_grad()
def validate(
    rewards: GroupRewards,
    reader: GroupReader,
    accelerator: Accelerator,
    average: str,
    batch: int,
    source: str,
) -> ValidationResult:
    """Compare rewards with rankings; the same answer on all ranks.

    Args:
        reader: of the split's groups. average: "prompt" or "pair". batch: groups of a forward pass.
        source: what the quantiles are said to be of.
    """
    from accelerate.utils import gather_object

    was_training = rewards.training
    rewards.eval()
    batches = [
        tuple(range(i, min(i + batch, len(reader.groups)))) for i in range(0, len(reader.groups), batch)
    ]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, list[float], tuple[int, ...]]] = []
    ahead = reader.start(mine[0], 0) if mine else []
    for i in range(len(mine)):
        groups = [group for group in (future.result() for future in ahead) if group is not None]
        ahead = reader.start(mine[i + 1], 0) if i + 1 < len(mine) else []
        if not groups:
            continue
        with accelerator.autocast():
            values = rewards(*rewards.inputs(groups, reader.cache)).float().cpu()
        for group, own in zip(groups, values.split([len(group.image_indices) for group in groups])):
            found.append((group.number, own.tolist(), group.ranks))
    rewards.train(was_training)
    found = sorted(gather_object(found) if accelerator.num_processes > 1 else found)
    if not found:
        raise InputError(
            f"{source}: none of its images can be read; {next(iter(reader.skipped.items()), '')}"
        )

    ranks = [own for _, _, own in found]
    each = [torch.tensor(own, dtype=torch.float64) for _, own, _ in found]
    every = torch.cat(each)
    not_finite = int((~every.isfinite()).sum())
    known = [own.where(own.isfinite(), math.nan) for own in each]  # NaN is not better than anything
    right = [pairwise_accuracy(own, ranking) for own, ranking in zip(known, ranks)]
    flat = every.tolist()
    loss = mean = std = math.nan
    if not not_finite:
        loss = float(ranking_loss_sum(every, ranks, average)) / loss_terms(ranks, average)
        mean = fmean(flat)
        std = pstdev(flat, mean) or 1.0
    return ValidationResult(
        loss=loss,
        accuracy=sum(r for r, _ in right) / sum(n for _, n in right),
        per_prompt_accuracy=fmean(r / n for r, n in right),
        pairs=sum(n for _, n in right),
        prompts=len(found),
        images=len(flat),
        mean=mean,
        std=std,
        quantiles=None
        if not_finite
        else ScoreQuantiles.of([(value - mean) / std for value in flat], f"{len(flat)} images of {source}"),
        not_finite=not_finite,
    )
