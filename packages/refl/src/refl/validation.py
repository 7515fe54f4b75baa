"""Validation on fixed prompts and seeds, and early stopping."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reward_core.runs.progress import logged_progress

from .config import ValidationConfig
from .objectives.objective import Objective
from .training_state import ReflState

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)
THUMBNAIL = 32  # pixels; diversity measures composition, not texture


@dataclass
class Validation:
    """The results of one validation.

    Attributes:
        scores: reward name -> a value for each image, in the order of ``pixels``.
        diversity: mean distance between images of the same prompt (see ``diversity``); NaN with one seed.
        pixels: images (prompts * seeds, 3, H, W) uint8 on the CPU, seed by seed within a prompt.
    """

    scores: dict[str, list[float]]
    diversity: float
    pixels: Tensor

    @property
    def rewards(self) -> dict[str, float]:
        """Reward name -> mean over all images."""
        return {name: sum(values) / len(values) for name, values in self.scores.items()}

    def row(self) -> dict[str, float]:
        """Return the row for metrics.jsonl."""
        rewards = {f"validation/{name}": value for name, value in self.rewards.items()}
        return {**rewards, "validation/diversity": self.diversity}


def diversity(pixels: Tensor, seeds: int) -> float:
    """Return the mean distance between 32 px thumbnails of images of the same prompt.

    Args:
        pixels: images (prompts * seeds, 3, H, W) in [0, 1], seed by seed within a prompt.
        seeds: images per prompt.

    Returns:
        The root-mean-square pixel distance in [0, 1], averaged over pairs and prompts; NaN with one seed.
    """
    if seeds < 2 or not len(pixels):
        return math.nan
    small = interpolate(pixels.float(), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    groups = small.flatten(1).view(len(pixels) // seeds, seeds, -1)
    distances = torch.cdist(groups, groups) / math.sqrt(groups.shape[-1])
    return float(distances.sum((1, 2)).mean() / (seeds * (seeds - 1)))


def validate(
    objective: Objective,
    prompts: Sequence[str],
    config: ValidationConfig,
    accelerator: Accelerator,
    batch: int,
) -> Validation:
    """Generate and score the images of all prompts and seeds on all ranks.

    Args:
        objective: generates the images and holds the rewards.
        prompts: validation prompts.
        config: seeds and denoising steps.
        accelerator: gathers the results of all ranks.
        batch: images that each rank generates at once.
    """
    samples = [(prompt, seed) for prompt in prompts for seed in range(config.seeds)]
    per_rank = -(-len(samples) // accelerator.num_processes)
    first = accelerator.process_index * per_rank
    # Every rank generates the same number of images: the last sample is repeated.
    local_samples = [samples[min(first + i, len(samples) - 1)] for i in range(per_rank)]
    images, rewards = [], []
    with objective.trainable.ema_weights():
        starts = range(0, per_rank, batch)
        main = accelerator.is_main_process
        for start in logged_progress(starts, "validating", len(starts), logger, main):
            texts, seeds = zip(*local_samples[start : start + batch])
            pixels = objective.generate(texts, seeds, config.steps)
            values = objective.rewards.all(pixels, texts)
            rewards.append(torch.stack([*values.values()], dim=1))
            images.append((pixels * 255).round().to(torch.uint8))
    all_rewards = accelerator.gather(torch.cat(rewards))[: len(samples)]
    pixels = accelerator.gather(torch.cat(images))[: len(samples)].cpu()
    scores = dict(zip(values, all_rewards.double().T.tolist()))
    return Validation(scores, diversity(pixels.float() / 255, config.seeds), pixels)


def record_validation(validation: Validation, config: ValidationConfig, state: ReflState) -> bool:
    """Record a validation in the run's state; return whether it is the best.

    If the run should stop, ``state.stopped`` is set to the reason. A validation below the minimum diversity
    is never the best. A reward that is not finite counts as worse than the best.
    """
    if state.diversity is None:
        state.diversity = validation.diversity
    elif validation.diversity < config.stop_diversity * state.diversity:
        state.stopped = (
            f"diversity fell to {validation.diversity:.3f}, below {config.stop_diversity:g} x "
            f"{state.diversity:.3f} before training (validation.stop_diversity)"
        )
        return False
    if not config.stop_reward:
        return False
    value = validation.rewards[config.stop_reward]
    if math.isfinite(value) and (state.best is None or value >= state.best):
        state.best, state.best_step, state.worse = value, state.step, 0
        return True
    state.worse += 1
    if state.worse >= config.stop_patience:
        if state.best is None:
            state.stopped = f"{config.stop_reward} was never finite (last value {value:.3f})"
        else:
            state.stopped = f"{config.stop_reward} fell to {value:.3f} from {state.best:.3f}"
    return False
