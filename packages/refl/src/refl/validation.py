"""Images of fixed prompts and seeds: their rewards, how much they differ, and grids to look at."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from reward_core.files.atomic_write import atomic_write
from reward_core.runs.progress import logged_progress

from .config import ValidationConfig
from .objective import Objective
from .training_state import ReflState

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)
THUMBNAIL = 32  # pixels; diversity is about what is where, not about texture


@dataclass
class Validation:
    """One validation.

    Attributes:
        rewards: name -> mean over all images.
        diversity: mean distance of two images of one prompt; see ``diversity``. NaN with one seed.
        pixels: (prompts * seeds, 3, H, W) uint8 on the CPU, seed by seed within a prompt.
    """

    rewards: dict[str, float]
    diversity: float
    pixels: Tensor

    def row(self) -> dict[str, float]:
        """Return the line of metrics.jsonl."""
        rewards = {f"validation/{name}": value for name, value in self.rewards.items()}
        return {**rewards, "validation/diversity": self.diversity}


def diversity(pixels: Tensor, seeds: int) -> float:
    """Mean root-mean-square distance, in [0, 1], between thumbnails of images of the same prompt.

    Args:
        pixels: (prompts * seeds, 3, H, W) in [0, 1], seed by seed within a prompt.
        seeds: images per prompt.
    """
    if seeds < 2 or not len(pixels):
        return math.nan
    small = interpolate(pixels.float(), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    groups = small.flatten(1).view(len(pixels) // seeds, seeds, -1)
    distances = torch.cdist(groups, groups) / math.sqrt(groups.shape[-1])
    return float(distances.sum((1, 2)).mean() / (seeds * (seeds - 1)))


def grid(pixels: Tensor, columns: int, path: Path) -> None:
    """Write images (N, 3, H, W) uint8 as one PNG, row by row."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, np.uint8)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[top : top + height, left : left + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def validate(
    objective: Objective,
    prompts: Sequence[str],
    config: ValidationConfig,
    accelerator: Accelerator,
    batch: int,
) -> Validation:
    """Make the images of all prompts and seeds, shared among the ranks, and judge them with every reward.

    Args:
        batch: images made at once by one rank.
    """
    samples = [(prompt, seed) for prompt in prompts for seed in range(config.seeds)]
    share = -(-len(samples) // accelerator.num_processes)
    first = accelerator.process_index * share
    # All ranks make equally many images.
    local_samples = [samples[min(first + i, len(samples) - 1)] for i in range(share)]
    images, rewards = [], []
    with objective.trainable.ema_weights():
        starts = range(0, share, batch)
        main = accelerator.is_main_process
        for start in logged_progress(starts, "validating", len(starts), logger, main):
            texts, seeds = zip(*local_samples[start : start + batch])
            pixels = objective.generate(texts, seeds, config.steps)
            values = objective.rewards.all(pixels, texts)
            rewards.append(torch.stack([*values.values()], dim=1))
            images.append((pixels * 255).round().to(torch.uint8))
    everything = accelerator.gather(torch.cat(rewards))[: len(samples)]
    pixels = accelerator.gather(torch.cat(images))[: len(samples)].cpu()
    means = dict(zip(values, everything.double().mean(0).tolist()))
    return Validation(means, diversity(pixels.float() / 255, config.seeds), pixels)


def record_validation(found: Validation, config: ValidationConfig, state: ReflState) -> bool:
    """Note a validation in the run's state; whether it is the best so far.

    ``state.stopped`` says why the run should end, if it should. Images of too little diversity are never
    the best, whatever their reward; nor is a reward that is not finite, which counts as a fall.
    """
    if state.diversity is None:
        state.diversity = found.diversity
    elif found.diversity < config.stop_diversity * state.diversity:
        before = state.diversity
        state.stopped = f"images of one prompt differ by {found.diversity:.3f}, {before:.3f} before training"
        return False
    if not config.stop_reward:
        return False
    value = found.rewards[config.stop_reward]
    if math.isfinite(value) and (state.best is None or value >= state.best):
        state.best, state.best_step, state.worse = value, state.step, 0
        return True
    state.worse += 1
    if state.worse >= config.stop_patience:
        best = "and never was finite" if state.best is None else f"from {state.best:.3f}"
        state.stopped = f"{config.stop_reward} fell to {value:.3f} {best}"
    return False
