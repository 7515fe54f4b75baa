"""The images of a run's validations, with their prompts and rewards."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image
from torch import Tensor

from reward_core.errors import InputError
from reward_core.files.atomic_write import atomic_folder
from reward_core.files.json_file import read_json, write_json

FOLDER, SCORES_FILE = "samples", "scores.json"


@dataclass(frozen=True)
class Samples:
    """The images of one validation.

    Attributes:
        step: optimizer step of the validation.
        prompts: the validation prompts.
        seeds: images per prompt.
        rewards: reward name -> a value for each image, seed by seed within a prompt; NaN if not finite.
    """

    step: int
    prompts: tuple[str, ...]
    seeds: int
    rewards: dict[str, list[float]]

    def image_file(self, run: Path, prompt: int, seed: int) -> Path:
        """Return the file of an image, by the indices of its prompt and seed."""
        return samples_folder(run, self.step) / f"{prompt:03d}-{seed}.png"

    def mean(self, reward: str, prompt: int) -> float:
        """Return the mean of a reward over the images of a prompt, by its index."""
        return fmean(self.rewards[reward][prompt * self.seeds : (prompt + 1) * self.seeds])

    def interval(self, reward: str) -> tuple[float, float]:
        """Return mean and half width of the 95% interval of a reward over prompts.

        The half width is 1.96 standard errors, and NaN with one prompt.
        """
        means = [self.mean(reward, prompt) for prompt in range(len(self.prompts))]
        if len(means) < 2 or not all(map(math.isfinite, means)):
            return fmean(means), math.nan
        return fmean(means), 1.96 * stdev(means) / math.sqrt(len(means))


def samples_folder(run: Path, step: int) -> Path:
    """Return the folder of the images of a step."""
    return run / FOLDER / f"step-{step:06d}"


def write_samples(
    run: Path,
    step: int,
    prompts: Sequence[str],
    seeds: int,
    scores: Mapping[str, Sequence[float]],
    pixels: Tensor,
) -> Samples:
    """Write the images of a validation as PROMPT-SEED.png, with prompts and rewards in scores.json.

    Args:
        run: folder of the run.
        step: optimizer step.
        prompts: P validation prompts.
        seeds: images per prompt, S.
        scores: reward name -> P * S values, seed by seed within a prompt.
        pixels: images (P * S, 3, H, W) uint8 on the CPU, in the same order.
    """
    samples = Samples(step, tuple(prompts), seeds, {name: list(values) for name, values in scores.items()})
    with atomic_folder(samples_folder(run, step)) as new:
        for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(new / samples.image_file(run, *divmod(i, seeds)).name)
        finite = {
            name: [value if math.isfinite(value) else None for value in values]  # JSON has no NaN
            for name, values in samples.rewards.items()
        }
        write_json(new / SCORES_FILE, asdict(samples) | {"rewards": finite})
    return samples


def read_samples(run: Path, steps: Collection[int]) -> list[Samples]:
    """Read the validations of some steps, in order. Missing and unreadable ones are left out."""
    found = (_read(samples_folder(run, step) / SCORES_FILE) for step in sorted(steps))
    return [samples for samples in found if samples is not None]


def _read(path: Path) -> Samples | None:
    if not path.is_file():
        return None
    try:
        content: Any = read_json(path, error=InputError)
        prompts = tuple(content["prompts"])
        rewards = {
            name: [math.nan if value is None else value for value in values]
            for name, values in content["rewards"].items()
        }
        samples = Samples(content["step"], prompts, content["seeds"], rewards)
    except (InputError, AttributeError, KeyError, TypeError):
        return None
    complete = all(len(values) == len(prompts) * samples.seeds for values in rewards.values())
    return samples if complete else None
