"""Evaluate rewards on ranked groups, on all ranks: loss, accuracy and the distribution of rewards."""

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
    """The evaluation of one split.

    Attributes:
        loss: the training loss.
        accuracy: fraction of all untied pairs ordered correctly.
        per_prompt_accuracy: mean over prompts of the fraction of their pairs.
        pairs: number of untied pairs.
        prompts: number of prompts.
        images: number of images.
        mean, std: of the head's output over all images.
        quantiles: of the head's output standardized with mean and std.
        not_finite: number of images whose output is NaN or infinite. If it is above 0, loss, mean and std
            are NaN, quantiles is None, and the pairs of these images count as ordered wrong.
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
        """Return the warning about rewards that are not finite."""
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
    """Compare rewards with rankings; return the same result on all ranks.

    Args:
        rewards: the module to evaluate.
        reader: reader of the split's groups.
        accelerator: the run's processes.
        average: "prompt" or "pair"; see ``ranking_loss``.
        batch: groups in a forward pass.
        source: name of the split, for errors and for the card.

    Raises:
        InputError: no image can be read.
    """
    from accelerate.utils import gather_object

    was_training = rewards.training
    rewards.eval()
    batches = [
        tuple(range(i, min(i + batch, len(reader.groups)))) for i in range(0, len(reader.groups), batch)
    ]
    local = batches[accelerator.process_index :: accelerator.num_processes]
    results: list[tuple[int, list[float], tuple[int, ...]]] = []  # index of the group, rewards, ranks
    ahead = reader.start(local[0], 0) if local else []
    for i in range(len(local)):
        groups = [group for group in (future.result() for future in ahead) if group is not None]
        ahead = reader.start(local[i + 1], 0) if i + 1 < len(local) else []
        if not groups:
            continue
        with accelerator.autocast():
            values = rewards(*rewards.inputs(groups, reader.cache)).float().cpu()
        for group, group_values in zip(groups, values.split([len(group.image_indices) for group in groups])):
            results.append((group.number, group_values.tolist(), group.ranks))
    rewards.train(was_training)
    results = sorted(gather_object(results) if accelerator.num_processes > 1 else results)
    if not results:
        example = "".join(f", such as '{image}' ({why})" for image, why in list(reader.skipped.items())[:1])
        raise InputError(f"Cannot evaluate {source}: its images cannot be read{example}.")

    ranks = [ranking for _, _, ranking in results]
    by_group = [torch.tensor(group_values, dtype=torch.float64) for _, group_values, _ in results]
    pooled = torch.cat(by_group)
    not_finite = int((~pooled.isfinite()).sum())
    # Comparisons with NaN are false, so pairs with infinite rewards count as wrong too.
    finite = [group.where(group.isfinite(), math.nan) for group in by_group]
    counts = [pairwise_accuracy(group, ranking) for group, ranking in zip(finite, ranks)]  # (correct, pairs)
    flat = pooled.tolist()
    loss = mean = std = math.nan
    if not not_finite:
        loss = float(ranking_loss_sum(pooled, ranks, average)) / loss_terms(ranks, average)
        mean = fmean(flat)
        std = pstdev(flat, mean) or 1.0
    return ValidationResult(
        loss=loss,
        accuracy=sum(correct for correct, _ in counts) / sum(pairs for _, pairs in counts),
        per_prompt_accuracy=fmean(correct / pairs for correct, pairs in counts),
        pairs=sum(pairs for _, pairs in counts),
        prompts=len(results),
        images=len(flat),
        mean=mean,
        std=std,
        quantiles=None
        if not_finite
        else ScoreQuantiles.of([(value - mean) / std for value in flat], f"{len(flat)} images of {source}"),
        not_finite=not_finite,
    )
