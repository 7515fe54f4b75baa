"""Comparison of two models on the same prompts and seeds, by several rewards."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_core.files.atomic_write import write_text
from reward_core.runs.run_lock import folder_lock

from .config.config_file import load_config
from .denoising.rollout import SampleNoise, rollout
from .denoising.rollout_plan import RolloutPlan
from .errors import ModelError, RewardError
from .families import Condition, Family, Guidance, load_family
from .publishing.result import SETTINGS
from .records.image_grid import grid
from .rewards import Rewards
from .validation import diversity

logger = logging.getLogger(__name__)
DRAWS = 10_000  # bootstrap samples over prompts
COMPARISON = 3  # purpose of the noise; objective.py defines 0 to 2


@dataclass(frozen=True)
class ImageSettings:
    """How the images of a comparison are generated.

    Attributes:
        height: image height in pixels; 0: the model's native size.
        width: image width in pixels; 0: same as ``height``.
        steps: denoising steps per image, at least 1.
        sampler: ddim, ddpm, euler or flow; empty: the default of the model's family.
        guidance_scale: classifier-free guidance scale; 1 disables guidance.
        negative_prompt: prompt for the unconditional branch of guidance.
        seeds: images per prompt.
        batch_size: images generated at once.
    """

    height: int = 0
    width: int = 0
    steps: int = 40
    sampler: str = ""
    guidance_scale: float = 5.0
    negative_prompt: str = ""
    seeds: int = 4
    batch_size: int = 4


@dataclass(frozen=True)
class RewardComparison:
    """One reward, compared between both models.

    Attributes:
        name: name of the reward.
        before: mean reward of the first model over all images.
        after: mean reward of the second model over all images.
        win_rate: share of (prompt, seed) pairs in which the second model's image has the higher reward;
            ties count half.
        win_rate_low: lower end of the 95% interval of ``win_rate`` (bootstrap over prompts).
        win_rate_high: upper end of that interval.
    """

    name: str
    before: float
    after: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float


def load_model(model: str | os.PathLike[str], base: str | None, device: torch.device) -> Family:
    """Load a pipeline, or LoRA weights on top of their base model.

    Args:
        model: a Hub id, a pipeline folder, a single file, or a folder of LoRA weights.
        base: base model of LoRA weights; None: the one named in their model card, or in the settings of the
            run whose folder they are in.
        device: device of the loaded model.

    Raises:
        ModelError: nothing found, LoRA weights of unknown base, or weights that do not fit the base.
    """
    folder = Path(model)
    is_lora = folder.is_dir() and (folder / "pytorch_lora_weights.safetensors").is_file()
    if is_lora:
        base = base or base_of_card(folder) or base_of_run(folder)
        if base is None:
            raise ModelError(
                f"Cannot load the LoRA weights in {str(model)!r}: their model card names no base model. Name "
                "it with --base."
            )
        family = load_family(base)
    else:
        family = load_family(model)
    if is_lora:
        try:
            family.pipeline.load_lora_weights(os.fspath(model))
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(
                f"Cannot load the LoRA weights in {str(model)!r} into {base!r}: {error}. Name the base model "
                "they were trained on with --base."
            ) from error
    family.pipeline.to(device)
    return family


def base_of_card(folder: Path) -> str | None:
    """Return ``base_model`` of the folder's model card, or None."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return None
    return ModelCard.load(path).data.to_dict().get("base_model")


def base_of_run(folder: Path) -> str | None:
    """Return ``model.id`` of the settings of the run that wrote a model folder, or None."""
    path = folder.resolve().parent / SETTINGS
    return load_config(path).model.id if path.is_file() else None


@torch.no_grad()
def generate_images(
    family: Family, samples: Sequence[tuple[str, int]], settings: ImageSettings
) -> Iterator[Tensor]:
    """Generate images batch by batch.

    Args:
        family: the model.
        samples: (prompt, noise seed) of each image; equal seeds give every model the same noise.
        settings: how to generate the images; ``seeds`` is unused.

    Yields:
        (B, 3, H, W) uint8 on the CPU, in the order of ``samples``; B is at most ``batch_size``.
    """
    height = settings.height or family.default_size
    width = settings.width or height
    schedule = family.schedule(settings.steps, settings.sampler, height, width)
    guidance, shape = Guidance(settings.guidance_scale), family.latent_shape(height, width)
    plan = RolloutPlan(settings.steps - 1, (), read="latents")
    negative = settings.negative_prompt if settings.guidance_scale != 1 else None
    for start in range(0, len(samples), settings.batch_size):
        prompts, seeds = zip(*samples[start : start + settings.batch_size])
        noise = SampleNoise(0, 0, seeds, COMPARISON)
        condition = family.encode(prompts, negative)

        def denoise(x: Tensor, i: int, condition: Condition = condition) -> Tensor:
            return family.denoise(x, schedule.timesteps[i], condition, guidance)

        def draw(noise: SampleNoise = noise) -> Tensor:
            return noise(shape, family.device)

        latents = rollout(denoise, schedule, plan, draw(), draw).latents
        yield (family.decode(latents) * 255).round().to(torch.uint8).cpu()


def score_images(
    images: Tensor,
    prompts: Sequence[str],
    rewards: Rewards,
    settings: ImageSettings,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Score images (P * seeds, 3, H, W) uint8, ordered by prompt, then seed.

    Returns:
        Reward name -> rewards (P, seeds).
    """
    repeated = [prompt for prompt in prompts for _ in range(settings.seeds)]
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), settings.batch_size):
        batch = slice(start, start + settings.batch_size)
        values = rewards.all(images[batch].to(device).float() / 255, repeated[batch])
        for name, batch_rewards in values.items():
            parts.setdefault(name, []).append(batch_rewards.cpu())
    return {name: torch.cat(batches).view(-1, settings.seeds).numpy() for name, batches in parts.items()}


def compare_rewards(name: str, before: np.ndarray, after: np.ndarray) -> RewardComparison:
    """Compare the rewards (prompts, seeds) of two models.

    Raises:
        RewardError: a reward is not finite (NaN would lose every comparison).
    """
    for side, values in (("before", before), ("after", after)):
        if len(bad := np.argwhere(~np.isfinite(values))):
            prompt, seed = bad[0]
            raise RewardError(
                f"Cannot compare by reward {name!r}: it is {values[prompt, seed]} for prompt {prompt}, seed "
                f"{seed} of the model {side!r}. Remove this reward, or fix what makes it overflow."
            )
    wins = np.where(after == before, 0.5, after > before).mean(1)
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, len(wins), (DRAWS, len(wins)))
    low, high = np.quantile(wins[draws].mean(1), (0.025, 0.975))
    return RewardComparison(
        name, float(before.mean()), float(after.mean()), float(wins.mean()), float(low), float(high)
    )


def compare(
    before: Family,
    after: Family,
    prompts: Sequence[str],
    rewards: Rewards,
    settings: ImageSettings,
    out: Path,
    advance: Any = lambda count: None,
) -> dict[str, Any]:
    """Generate and score images of two models.

    Writes comparison.json, comparison.png and pictures.jsonl.

    Args:
        before: the first model, usually the base.
        after: the second model, usually fine-tuned.
        prompts: P prompts.
        rewards: rewards to compare by.
        settings: how to generate the images.
        out: output folder.
        advance: called with the number of images after each generated batch.

    Returns:
        The contents of comparison.json: ``rewards`` (see RewardComparison), ``diversity`` of both models,
        the number of prompts and the settings.

    Raises:
        RewardError: a reward is not finite.
        KeyboardInterrupt: after the results of the finished prompts were written.
        reward_core.errors.OutputError: another comparison is using the folder.
    """
    with folder_lock(out, ".compare.lock"):
        return _compare(before, after, prompts, rewards, settings, out, advance)


def _compare(
    before: Family,
    after: Family,
    prompts: Sequence[str],
    rewards: Rewards,
    settings: ImageSettings,
    out: Path,
    advance: Any,
) -> dict[str, Any]:
    device = before.device
    samples = [
        (prompt, i * settings.seeds + seed)
        for i, prompt in enumerate(prompts)
        for seed in range(settings.seeds)
    ]
    # All images of one prompt, or of as many as one batch takes.
    group_size = settings.seeds * max(1, settings.batch_size // settings.seeds)
    made: list[tuple[Tensor, ...]] = []  # (before, after) for each group
    interrupted = None
    try:
        for first in range(0, len(samples), group_size):
            group = samples[first : first + group_size]
            pair = []
            for family in (before, after):
                pair.append(torch.cat(list(generate_images(family, group, settings))))
                advance(len(group))
            made.append(tuple(pair))
    except KeyboardInterrupt as interrupt:
        if not made:
            raise
        interrupted, total = interrupt, len(prompts)
        prompts = prompts[: len(made) * group_size // settings.seeds]
        logger.warning("interrupted; %d of %d prompts are compared in '%s'", len(prompts), total, out)
    images = [torch.cat(pixels) for pixels in zip(*made)]
    scores = [score_images(pixels, prompts, rewards, settings, device) for pixels in images]
    names = list(scores[0])
    diversities = [diversity(pixels.float() / 255, settings.seeds) for pixels in images]
    document = {
        "rewards": [asdict(compare_rewards(name, scores[0][name], scores[1][name])) for name in names],
        "diversity": {
            side: None if math.isnan(value) else value
            for side, value in zip(("before", "after"), diversities)
        },
        "prompts": len(prompts),
        "settings": asdict(settings),
    }
    write_text(out / "comparison.json", json.dumps(document, indent=1))
    rows = [
        {"prompt": prompt, "seed": seed}
        | {
            f"{side}/{name}": float(scores[j][name][i, seed])
            for j, side in enumerate(("before", "after"))
            for name in names
        }
        for i, prompt in enumerate(prompts)
        for seed in range(settings.seeds)
    ]
    write_text(out / "pictures.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    both = torch.stack(
        [pixels.view(len(prompts), settings.seeds, *pixels.shape[1:]) for pixels in images], dim=1
    )
    # One row per prompt: the images before, then those after.
    grid(both.flatten(0, 2), 2 * settings.seeds, out / "comparison.png")
    if interrupted is not None:
        raise interrupted
    return document
