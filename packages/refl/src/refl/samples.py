"""The images of a validation as a grid, and beside it what they show: prompts, seeds and rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reward_core.files.atomic_write import write_text
from reward_core.files.json_file import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # white pixels between the images of a grid


@dataclass(frozen=True)
class Samples:
    """The images of a validation, one row of the grid per prompt and one column per seed.

    Attributes:
        prompts: P prompts.
        seeds: images per prompt.
        height: height of an image in pixels.
        width: width of an image in pixels.
        rewards: reward name -> rewards of the P * seeds images, seed by seed within a prompt; None if a
            reward is not finite.
    """

    prompts: list[str]
    seeds: int
    height: int
    width: int
    rewards: dict[str, list[float | None]]

    def image(self, grid: Image, prompt: int, seed: int = 0) -> Image:
        """Return the image of a prompt and a seed, both by index."""
        left, top = seed * (self.width + GAP), prompt * (self.height + GAP)
        return grid.crop((left, top, left + self.width, top + self.height))


def grid_path(run: Path, step: int) -> Path:
    """Return the path of the grid of the validation at a step."""
    return run / "samples" / f"step-{step:06d}.png"


def write_samples(
    run: Path,
    step: int,
    prompts: Sequence[str],
    size: Sequence[int],
    rewards: Mapping[str, Sequence[float]],
) -> None:
    """Write what the grid of a validation shows, beside it.

    Args:
        run: folder of the run.
        step: optimizer step of the validation.
        prompts: P validation prompts.
        size: height and width of an image in pixels.
        rewards: reward name -> rewards of all images, seed by seed within a prompt.
    """
    finite = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in rewards.items()
    }
    seeds = len(next(iter(finite.values()))) // len(prompts)
    samples = Samples(list(prompts), seeds, size[0], size[1], finite)
    write_text(grid_path(run, step).with_suffix(".json"), json.dumps(asdict(samples), ensure_ascii=False))


def read_samples(run: Path, step: int) -> Samples | None:
    """Return what ``write_samples`` wrote, or None if the grid or its description is missing.

    Raises:
        CheckpointError: the description is damaged.
    """
    path = grid_path(run, step).with_suffix(".json")
    if not path.is_file() or not grid_path(run, step).is_file():
        return None
    return Samples(**read_json(path))
