"""Images of any size as tensors of one size: a row for each visual token, and their grid in the first row.

The scoring pipeline stacks images and features. Visual tokens of images with different sides differ in
number, so rows are padded with zeros to MOST_TOKENS.

Letters in shape comments: h, w grid of visual tokens, p side of a patch, D numbers in a row, T MOST_TOKENS.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MERGE = 2  # patches along each side of a visual token
# Largest number of visual tokens. Rounding up the sides of an image with 256 x 28 x 28 pixels and the largest
# ratio of sides, 200, to multiples of 28 gives fewer: (31.7 / 28 + 1) x (6335.8 / 28 + 1) = 484.6. Rounding
# these to multiples of 32 gives fewer again.
MOST_TOKENS = 484


def token_rows(pixels: Tensor, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """Return an image as one row per visual token, (h w, 4 3 p p), and the grid (h, w).

    The order is that of the Qwen processors: tokens by row and column, their 2 x 2 patches by row and column,
    in each the channels, rows and columns.

    Args:
        pixels: (3, H, W) with sides that are multiples of 2 p.
        patch: side p of a patch.
    """
    height, width = pixels.shape[1:]
    h, w = height // (MERGE * patch), width // (MERGE * patch)
    parts = pixels.view(3, h, MERGE, patch, w, MERGE, patch)
    return parts.permute(1, 4, 2, 5, 0, 3, 6).reshape(h * w, -1), (h, w)


def packed(rows: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> Tensor:
    """Return the rows of B images as one tensor (B, 1 + n T, D).

    Args:
        rows: (n, h w, D) for each image: n sets of rows.
        grids: (h, w) for each image; at most 256, so that 16 bits hold them exactly.
    """
    images = []
    for image, grid in zip(rows, grids):
        first = image.new_zeros(1, image.shape[-1])
        first[0, 0], first[0, 1] = grid
        padded = F.pad(image, (0, 0, 0, MOST_TOKENS - image.shape[1]))
        images.append(torch.cat([first, padded.flatten(0, 1)]))
    return torch.stack(images)


def grids_of(images: Tensor) -> list[tuple[int, int]]:
    """Return the grids (h, w) of B packed images."""
    return [(int(h), int(w)) for h, w in images[:, 0, :2].tolist()]


def unpacked(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the rows (n, h w, D) of a packed image (1 + n T, D)."""
    sets = image[1:].unflatten(0, (-1, MOST_TOKENS))
    return sets[:, : grid[0] * grid[1]]


def vision_patches(rows: Tensor) -> Tensor:
    """Return rows (h w, 4 3 p p) as the patches (4 h w, 3 2 p p) of a video of two equal frames."""
    patches = rows.view(rows.shape[0] * MERGE**2, 3, 1, -1)
    return patches.expand(-1, -1, 2, -1).reshape(len(patches), -1)
