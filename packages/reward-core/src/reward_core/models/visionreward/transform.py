"""One image prepared for two models that read it at different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...inputs.image_transform import ImageTransform


class JoinedTransform(ImageTransform):
    """The transforms of several models as one: an image becomes one row of levels.

    Shapes: B images, L levels of an image for all models.

    Args:
        transforms: the transforms. Their ``prepare`` must return levels of one shape for every image.
    """

    def __init__(self, transforms: Sequence[ImageTransform]) -> None:
        largest = max(transforms, key=lambda transform: transform.size)
        super().__init__(largest.size, *(constant.flatten().tolist() for constant in largest._cpu_constants))
        self.transforms = list(transforms)
        blank = Image.new("RGB", (8, 8))
        self.shapes = [transform.prepare(blank).shape for transform in transforms]

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the levels (L,) uint8 of a PIL image for all models, on the CPU."""
        return torch.cat([transform.prepare(image).flatten() for transform in self.transforms])

    def prepare_for_device(self, image: Image.Image) -> Tensor:
        """Return the levels, as ``prepare`` does: no GPU resizes for two models."""
        return self.prepare(image)

    def resize_on_device(self, levels: Tensor) -> Tensor:
        """Return the levels unchanged: they are resized already."""
        return levels

    def finish(self, images: Tensor) -> Any:
        """Return the pixels for each model, of B stacked results of ``prepare`` (B, L), on their device."""
        parts = images.split([shape.numel() for shape in self.shapes], dim=1)
        return [
            transform.finish(part.unflatten(1, shape))
            for transform, part, shape in zip(self.transforms, parts, self.shapes)
        ]

    def forward(self, images: Tensor) -> Any:
        """Return the pixels for each model, of float images (B, 3, H, W) in [0, 1], differentiably."""
        return [transform(images) for transform in self.transforms]
