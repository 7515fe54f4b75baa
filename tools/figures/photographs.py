"""What a model sees of photographs: the resized center square. No reward is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from reward_core.inputs.image_transform import ImageTransform
from reward_core.inputs.square_image import resized_size

from .record import DOCS, save_png

PHOTOGRAPHS = tuple(DOCS / "photographs" / f"{name}.jpg" for name in ("astronaut", "cat", "coffee", "rocket"))
SIZES = {224: "ImageReward-v1.0, 224 px", 64: "tiny, 64 px, enlarged"}  # side in pixels -> title
HEIGHT, GAP, TITLE = 224, 16, 28


def transform(size: int) -> ImageTransform:
    return ImageTransform(size, (0.0,) * 3, (1.0,) * 3)  # without normalization


def framed(photograph: Image.Image) -> Image.Image:
    """Return the photograph with the square that a model sees; the rest is pale."""
    width, height = resized_size(*photograph.size, HEIGHT)
    shown = photograph.resize((width, height), Image.Resampling.BICUBIC)
    box = ImageTransform.crop_box(width, height, HEIGHT)
    canvas = Image.blend(shown, Image.new("RGB", shown.size, "white"), 0.65)
    canvas.paste(shown.crop(box), box[:2])
    ImageDraw.Draw(canvas).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="#d62728", width=2)
    return canvas


def largest_difference(photograph: Image.Image, size: int) -> float:
    """Return the largest difference, in levels of 0 to 255, of the differentiable transform from PIL's."""
    exact = transform(size).to_uint8(photograph).astype(float)
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].float() / 255
    differentiable = transform(size)(pixels)[0].permute(1, 2, 0).numpy() * 255
    return float(np.abs(exact - differentiable).max())


def make() -> dict[str, Any]:
    """Draw photographs.png and compare both transforms on the photographs."""
    photographs = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    left_column = [framed(photograph) for photograph in photographs]
    left_width = max(image.width for image in left_column)
    width = left_width + len(SIZES) * HEIGHT + (len(SIZES) + 2) * GAP
    canvas = Image.new("RGB", (width, TITLE + GAP + len(photographs) * (HEIGHT + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    titles = ["image; the red square counts", *SIZES.values()]
    lefts = [GAP, *(2 * GAP + left_width + i * (HEIGHT + GAP) for i in range(len(SIZES)))]
    for left, title in zip(lefts, titles):
        draw.text((left, GAP // 2), title, fill="black", font=font)
    for row, (photograph, frame) in enumerate(zip(photographs, left_column)):
        top = TITLE + GAP // 2 + row * (HEIGHT + GAP)
        canvas.paste(frame, (GAP, top))
        for left, size in zip(lefts[1:], SIZES):
            seen = Image.fromarray(transform(size).to_uint8(photograph))
            canvas.paste(seen.resize((HEIGHT, HEIGHT), Image.Resampling.NEAREST), (left, top))
    return {
        "images": [save_png(canvas, "photographs.png")],
        "largest_difference_in_levels": {
            str(size): max(largest_difference(photograph, size) for photograph in photographs)
            for size in SIZES
        },
    }
