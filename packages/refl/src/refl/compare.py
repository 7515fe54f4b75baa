"""Two models side by side: the same prompts, the same seeds, several rewards."""

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

from .errors import ModelError, RewardError
from .families import Condition, Family, Guidance, load_family
from .rewards import Rewards
from .rollout import SampleNoise, rollout
from .strategies import RolloutPlan
from .validation import diversity, grid

logger = logging.getLogger(__name__)
DRAWS = 10_000  # bootstrap samples over prompts
COMPARISON = 3  # purpose of noise, beside objective.py's


@dataclass(frozen=True)
class ImageSettings:
    """How images to compare are made.

    Attributes:
        height: pixels; 0: what the model was made for.
        width: pixels; 0: as height.
        steps: denoising steps.
        sampler: empty: the family's first.
        guidance_scale: 1 is none.
        negative_prompt: for guidance.
        seeds: images per prompt.
        batch_size: images made at once.
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
    """One reward on both models.

    Attributes:
        name: of the reward.
        before: mean over all images.
        after: mean over all images.
        win_rate: share of (prompt, seed) pairs in which the after image has the higher reward, ties half.
        win_rate_low: lower end of its 95% interval, by bootstrap over prompts.
        win_rate_high: upper end.
    """

    name: str
    before: float
    after: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float


def load_model(model: str | os.PathLike[str], base: str | None, device: torch.device) -> Family:
    """A pipeline (id, folder, single file) or a folder of LoRA weights upon ``base``.

    Raises:
        ModelError: nothing there, or LoRA weights whose base is not known.
    """
    folder = Path(model)
    is_lora = folder.is_dir() and (folder / "pytorch_lora_weights.safetensors").is_file()
    if is_lora:
        base = base or base_of_card(folder)
        if base is None:
            raise ModelError(f"{model}: LoRA weights; say on which model with --base (its card names none)")
        family = load_family(base)
    else:
        family = load_family(model)
    if is_lora:
        try:
            family.pipeline.load_lora_weights(os.fspath(model))
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{model}: these LoRA weights do not go with {base}: {error}") from error
    family.pipeline.to(device)
    return family


def base_of_card(folder: Path) -> str | None:
    """``base_model`` of a model card; None where there is none."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return None
    return ModelCard.load(path).data.to_dict().get("base_model")


@torch.no_grad()
def generate_images(
    family: Family, samples: Sequence[tuple[str, int]], settings: ImageSettings
) -> Iterator[Tensor]:
    """Make images batch by batch.

    Args:
        family: the model.
        samples: (prompt, number of its noise); the same number gives every model the same noise.
        settings: ``seeds`` has no part here.

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
        prompts, numbers = zip(*samples[start : start + settings.batch_size])
        noise = SampleNoise(0, 0, numbers, COMPARISON)
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
    """name -> (prompts, seeds) rewards."""
    repeated = [prompt for prompt in prompts for _ in range(settings.seeds)]
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), settings.batch_size):
        batch = slice(start, start + settings.batch_size)
        values = rewards.all(images[batch].to(device).float() / 255, repeated[batch])
        for name, found in values.items():
            parts.setdefault(name, []).append(found.cpu())
    return {name: torch.cat(found).view(-1, settings.seeds).numpy() for name, found in parts.items()}


def compare_rewards(name: str, before: np.ndarray, after: np.ndarray) -> RewardComparison:
    """Return the means and the win rate of rewards (prompts, seeds), with a bootstrap over prompts.

    Raises:
        RewardError: a reward that is not a finite number; as NaN it would lose every comparison.
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
    """Make, judge and lay side by side; writes comparison.json, comparison.png and the images' rewards.

    Returns:
        what comparison.json holds: ``rewards`` (see RewardComparison), ``diversity`` before and after,
        prompts, seeds and settings.

    Raises:
        RewardError: a reward that is not a finite number.
        KeyboardInterrupt: after the results of the prompts that are finished were written.
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
    made: list[tuple[Tensor, ...]] = []  # (before, after) for each prompt
    interrupted = None
    try:
        for first in range(0, len(samples), settings.seeds):
            group = samples[first : first + settings.seeds]
            pair = []
            for family in (before, after):
                pair.append(torch.cat(list(generate_images(family, group, settings))))
                advance(len(group))
            made.append(tuple(pair))
    except KeyboardInterrupt as interrupt:
        if not made:
            raise
        interrupted, total = interrupt, len(prompts)
        prompts = prompts[: len(made)]
        logger.warning("interrupted; %d of %d prompts are compared in '%s'", len(made), total, out)
    images = [torch.cat(of_model) for of_model in zip(*made)]
    found = [score_images(of_model, prompts, rewards, settings, device) for of_model in images]
    names = list(found[0])
    spread = [diversity(of_model.float() / 255, settings.seeds) for of_model in images]
    document = {
        "rewards": [asdict(compare_rewards(name, found[0][name], found[1][name])) for name in names],
        "diversity": {side: None if math.isnan(s) else s for side, s in zip(("before", "after"), spread)},
        "prompts": len(prompts),
        "settings": asdict(settings),
    }
    write_text(out / "comparison.json", json.dumps(document, indent=1))
    rows = [
        {"prompt": prompt, "seed": seed}
        | {
            f"{side}/{name}": float(found[j][name][i, seed])
            for j, side in enumerate(("before", "after"))
            for name in names
        }
        for i, prompt in enumerate(prompts)
        for seed in range(settings.seeds)
    ]
    write_text(out / "pictures.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    both = torch.stack(
        [of_model.view(len(prompts), settings.seeds, *of_model.shape[1:]) for of_model in images], dim=1
    )
    grid(both.flatten(0, 2), 2 * settings.seeds, out / "comparison.png")  # a row a prompt: before, then after
    if interrupted is not None:
        raise interrupted
    return document
