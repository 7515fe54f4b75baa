"""Image transforms of scorers based on CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...inputs.image_transform import ImageTransform
from ...inputs.square_image import SquareImage

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PaddedTransform(ImageTransform):
    """Image transform of HPSv2: resize the longer side to S and pad with black.

    PIL images and tensors are resized by the same code (bicubic).

    Args:
        size, mean, std: as in ImageTransform.
        antialias: whether shrinking an image reads all of its pixels.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], antialias: bool = True):
        super().__init__(size, mean, std)
        self.antialias = antialias

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the padded pixels (3, S, S) float32 in [0, 1] of a PIL image, on the CPU."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        return self._fit(pixels)[0]

    def prepare_for_device(self, image: Image.Image) -> Tensor:
        """Return the padded pixels, as ``prepare`` does: no GPU resizes like this."""
        return self.prepare(image)

    def finish(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of B stacked results of ``prepare``, on their device."""
        return self._normalized(images)

    def _normalized(self, pixels: Tensor) -> Tensor:
        mean, std = self._constants(pixels.device)
        return (pixels - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of float images, differentiably.

        Images are (B, 3, H, W) in [0, 1].
        """
        return self._normalized(self._fit(images.float()))

    def _fit(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [0, 1] resized and padded to (B, 3, S, S)."""
        height, width = images.shape[-2:]
        scale = self.size / max(height, width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
        if new != (height, width):
            images = F.interpolate(images, new, mode="bicubic", antialias=self.antialias, align_corners=False)
        down, across = self.size - new[0], self.size - new[1]
        padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        return F.pad(images, padding)


class RgbFirstTransform(ImageTransform):
    """Image transform of PickScore and MPS (the CLIP processor of transformers).

    It converts to RGB before resizing and rounds the crop's left and top down.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__(size, mean, std)
        self.square = SquareImage(size, rgb_first=True)
