"""Lists of IMAGE batches to single pictures and back, and scores drawn on them.

Letters in shape comments: B batch, H, W picture, C channels (an IMAGE is (B, H, W, C) in [0, 1]).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST_SIDE = 256  # a preview's; on less a number cannot be read


def single_pictures(batches: Sequence[Tensor]) -> list[Tensor]:
    """IMAGE batches, of any sizes -> pictures (H, W, C) in their order."""
    return [picture for batch in batches for picture in batch]


def in_batches(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Pictures (H, W, C) -> IMAGE batches in the same order; neighbours of one size share a batch."""
    batches: list[list[Tensor]] = []
    for picture in pictures:
        if not batches or batches[-1][0].shape != picture.shape:
            batches.append([])
        batches[-1].append(picture)
    return [torch.stack(batch) for batch in batches]


def to_pixels(picture: Tensor) -> Tensor:
    """(H, W, C) of any C -> (3, H, W) in [0, 1]: grey is repeated, alpha dropped."""
    pixels = picture.permute(2, 0, 1).float()
    if pixels.shape[0] < 3:
        pixels = pixels[:1].expand(3, -1, -1)
    return pixels[:3].clamp(0, 1)


def with_label(picture: Tensor, label: str) -> Tensor:
    """(H, W, C) -> (H', W', 3), a small picture enlarged, with the label on a dark bar at its foot."""
    levels = (to_pixels(picture).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    image = Image.fromarray(levels)
    scale = -(-SMALLEST_SIDE // min(image.size))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(14, min(image.size) // 14)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((0, image.height - 2 * size, image.width, image.height), fill=(0, 0, 0, 170))
    middle = (size // 2, image.height - size)
    draw.text(middle, label, fill="white", font=ImageFont.load_default(size), anchor="lm")
    return torch.from_numpy(np.array(image)).float() / 255
