"""Images and prompts of many kinds, to measure how far rewards of faster precisions are from exact ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scoring_workload import PROMPTS, WORDS, varied_images

from reward_core import shapes

PHOTOGRAPHS = Path(__file__).parents[1] / "docs" / "photographs"


def mixed_images(count: int, side: int, seed: int) -> list[Image.Image]:
    """Return parts of photographs, drawings of ShapesBench, textures, and gradients with noise, in turn.

    Args:
        count: number of images.
        side: width and height.
        seed: selects the parts, drawings, textures and gradients.
    """
    generator = np.random.default_rng(seed)
    each = -(-count // 4)
    kinds = [
        [_photograph(generator, i, side) for i in range(each)],
        [_drawing(seed * each + i, side) for i in range(each)],
        [_texture(generator, i, side) for i in range(each)],
        varied_images(each, side, seed),
    ]
    return [image for images in zip(*kinds) for image in images][:count]


def prompts_of(seed: int) -> tuple[str, ...]:
    """Return four prompts: the usual ones for seed 0, otherwise random words of them."""
    if seed == 0:
        return PROMPTS
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 14, len(PROMPTS))
    return tuple(" ".join(generator.choice(WORDS, length)) for length in lengths)


def _photograph(generator: np.random.Generator, index: int, side: int) -> Image.Image:
    """Return a random square of a photograph."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    with Image.open(files[index % len(files)]) as opened:
        photograph = opened.convert("RGB")
    size = int(generator.uniform(0.4, 1.0) * min(photograph.size))
    x = int(generator.integers(0, photograph.width - size + 1))
    y = int(generator.integers(0, photograph.height - size + 1))
    return photograph.crop((x, y, x + size, y + size)).resize((side, side), Image.Resampling.BICUBIC)


def _drawing(index: int, side: int) -> Image.Image:
    """Return the first image of a group of ShapesBench."""
    (group,) = shapes.make_groups(1, start=index)
    return Image.fromarray(group.images[0]).resize((side, side), Image.Resampling.BICUBIC)


def _texture(generator: np.random.Generator, index: int, side: int) -> Image.Image:
    """Return noise, waves, clouds or a checkerboard, in turn."""
    y, x = np.mgrid[0:side, 0:side] / side
    kind = index % 4
    if kind == 0:
        pixels = generator.uniform(0, 256, (side, side, 3))
    elif kind == 1:
        waves, angles = generator.uniform(2, 60, (3, 1, 1)), generator.uniform(0, np.pi, (3, 1, 1))
        phase = 2 * np.pi * waves * (x * np.cos(angles) + y * np.sin(angles))  # (3, side, side)
        pixels = 127 + 127 * np.sin(phase).transpose(1, 2, 0)
    elif kind == 2:
        # Noise whose spectrum falls with frequency, as that of photographs does.
        frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
        spectrum = np.maximum(frequency, 1 / side) ** -generator.uniform(0.8, 1.6)
        noise = np.fft.fft2(generator.normal(size=(3, side, side))) * spectrum
        clouds = np.fft.ifft2(noise).real
        pixels = 127 + 50 * ((clouds - clouds.mean()) / clouds.std()).transpose(1, 2, 0)
    else:
        cells = int(generator.integers(2, 40))
        board = ((x * cells).astype(int) + (y * cells).astype(int)) % 2
        pixels = board[..., None] * generator.integers(50, 256, 3) + generator.normal(0, 10, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
