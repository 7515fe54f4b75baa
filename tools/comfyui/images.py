"""Convert between IMAGE batches and single images, and draw scores on images.

Letters in shape comments: B batch, H and W image size, C channels (an IMAGE is (B, H, W, C) in [0, 1]).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST_SIDE = 256  # pixels; numbers are not legible on smaller previews


def single_images(batches: Sequence[Tensor]) -> list[Tensor]:
    """Split IMAGE batches of any sizes into images (H, W, C), in order."""
    return [image for batch in batches for image in batch]


def in_batches(images: Sequence[Tensor]) -> list[Tensor]:
    """Group images (H, W, C) of equal size into IMAGE batches, in order."""
    batches: list[list[Tensor]] = []
    for image in images:
        if not batches or batches[-1][0].shape != image.shape:
            batches.append([])
        batches[-1].append(image)
    return [torch.stack(batch) for batch in batches]


def to_pixels(image: Tensor) -> Tensor:
    """Convert an image (H, W, C) to (3, H, W) in [0, 1]: repeat gray, drop alpha."""
    pixels = image.permute(2, 0, 1).float()
    if pixels.shape[0] < 3:
        pixels = pixels[:1].expand(3, -1, -1)
    return pixels[:3].clamp(0, 1)


def with_label(pixels: Tensor, label: str) -> Tensor:
    """Draw a label at the bottom of an image (H, W, C); enlarge small images."""
    levels = (to_pixels(pixels).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
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
