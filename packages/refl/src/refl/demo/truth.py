"""Scores of images by ShapesBench's oracle, used for reports only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from reward_core import shapes

SPECK = 0.05  # things with a smaller radius (fraction of the image side) are not counted


@dataclass(frozen=True)
class Truths:
    """The oracle's scores of N images, (N,) float64 each, in [0, 1].

    Attributes:
        utility: overall quality, alignment * (0.4 + 0.6 * cleanliness).
        alignment: how well the image fits its prompt.
        cleanliness: how clean the image is, regardless of the prompt.
        count: 1 if the image shows as many things as the prompt names, else 0.
        colors: 1 if the count and all colors are correct, else 0.
        shapes: 1 if the count and all shapes are correct, else 0.
    """

    utility: np.ndarray
    alignment: np.ndarray
    cleanliness: np.ndarray
    count: np.ndarray
    colors: np.ndarray
    shapes: np.ndarray


def read_truths(images: Tensor, prompts: Sequence[str]) -> Truths:
    """Score images (N, 3, H, W) uint8 for their N prompts with the oracle."""
    rows = []
    for image, prompt in zip(images.permute(0, 2, 3, 1).contiguous().numpy(), prompts, strict=True):
        scene, reading = shapes.parse(prompt), shapes.read_image(image)
        truth = shapes.Truth.of(reading.alignment(scene), reading.cleanliness)
        things = [thing for thing in reading.things if thing.radius > SPECK]
        colors = sorted(shapes.nearest_color(thing.color) for thing in things)
        outlines = sorted(shapes.nearest_shape(thing.outline) for thing in things)
        rows.append(
            (
                truth.utility,
                truth.alignment,
                truth.cleanliness,
                len(things) == len(scene.things),
                colors == sorted(thing.color for thing in scene.things),
                outlines == sorted(thing.shape for thing in scene.things),
            )
        )
    return Truths(*np.array(rows, np.float64).reshape(-1, 6).T)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return (mean, low, high): a 95% bootstrap interval over the first axis."""
    flat = values.reshape(len(values), -1).mean(1)
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, len(flat), (10_000, len(flat)))
    low, high = np.quantile(flat[draws].mean(1), (0.025, 0.975))
    return float(flat.mean()), float(low), float(high)
