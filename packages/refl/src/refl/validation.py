"""Pictures of fixed prompts and seeds: their rewards, how much they differ, and grids to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Generate = Callable[[Sequence[str], Sequence[int]], Tensor]
"""(B prompts, B seeds) -> pixels (B, 3, H, W) in [0, 1], without gradient."""

THUMBNAIL = 32  # pixels; diversity is about what is where, not about texture


@dataclass
class Validation:
    """One validation.

    Attributes:
        rewards: name -> mean over all pictures.
        diversity: mean distance of two pictures of one prompt; see ``diversity``. NaN with one seed.
        pixels: (prompts * seeds, 3, H, W) uint8 on the CPU, seed by seed within a prompt.
    """

    rewards: dict[str, float]
    diversity: float
    pixels: Tensor


def diversity(pixels: Tensor, seeds: int) -> float:
    """Mean root-mean-square distance, in [0, 1], between thumbnails of pictures of the same prompt.

    Args:
        pixels: (prompts * seeds, 3, H, W) in [0, 1], seed by seed within a prompt.
        seeds: pictures per prompt.
    """
    if seeds < 2 or not len(pixels):
        return math.nan
    small = interpolate(pixels.float(), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    groups = small.flatten(1).view(len(pixels) // seeds, seeds, -1)
    distances = torch.cdist(groups, groups) / math.sqrt(groups.shape[-1])
    return float(distances.sum((1, 2)).mean() / (seeds * (seeds - 1)))


def grid(pixels: Tensor, columns: int, path: Path) -> None:
    """Write pictures (N, 3, H, W) uint8 as one PNG, row by row."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, np.uint8)
    for i, picture in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(sheet).save(temporary, format="PNG")
    temporary.replace(path)
