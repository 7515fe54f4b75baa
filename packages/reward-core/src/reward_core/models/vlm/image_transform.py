"""Image transforms of HPSv3 and HPSv3++: resize to about 256 visual tokens, cut into patches, normalize.

Letters in shape comments: B images, H, W sides of an image, T, D as in image_rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...errors import InputError
from ...inputs.image_transform import ImageTransform
from .config import ImageSettings
from .image_rows import MERGE, grids_of, packed, token_rows, unpacked
from .image_sizes import fitted_size

# Both scorers first resize as HPSv3 does for Qwen2-VL: multiples of 28 and always the same number of pixels.
FIRST_FACTOR = 28
PIXELS = 256 * FIRST_FACTOR**2


class VlmTransform(ImageTransform):
    """The transform of images for a vision-language model.

    It keeps the ratio of sides and drops alpha. PIL images are resized by PIL (bicubic) and, if the patches
    of the model have another size than Qwen2-VL's, a second time by torch (bicubic on 8 bits, antialiased).
    Float images are resized by torch without rounding, as the authors do in their differentiable mode.

    Args:
        settings: patch, mean, std and the budget of the second resize.
    """

    def __init__(self, settings: ImageSettings):
        super().__init__(FIRST_FACTOR * 16, settings.mean, settings.std)
        self.settings = settings

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the sizes (height, width) to which an image is resized, one after the other.

        Raises:
            UnfitImageError: the ratio of the sides is over 200.
        """
        first = fitted_size(height, width, FIRST_FACTOR, PIXELS, PIXELS)
        factor = MERGE * self.settings.patch
        if factor == FIRST_FACTOR:
            return [first]
        return [first, fitted_size(*first, factor, self.settings.least_pixels, self.settings.most_pixels)]

    def levels(self, image: Image.Image) -> Tensor:
        """Return a PIL image as resized levels (3, H, W) uint8."""
        first, *others = self.sizes(image.height, image.width)
        resized = image.convert("RGB").resize((first[1], first[0]), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
        for size in others:
            levels = _resized(levels, size)
        return levels

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the levels (1 + T, D) uint8 of a PIL image on the CPU, for ``finish``."""
        rows, grid = token_rows(self.levels(image), self.settings.patch)
        return packed([rows[None]], [grid])[0]

    def prepare_for_device(self, image: Image.Image) -> Tensor:
        """Return the levels, as ``prepare`` does: no GPU resizes like this."""
        return self.prepare(image)

    def resize_on_device(self, levels: Tensor) -> Tensor:
        """Return the levels unchanged: they are resized already."""
        return levels

    def finish(self, images: Tensor) -> Tensor:
        """Return normalized rows (B, 1 + T, D) of B stacked results of ``prepare``, on their device."""
        grids = grids_of(images)
        return self._packed([unpacked(image, grid)[0].float() for image, grid in zip(images, grids)], grids)

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Return normalized rows (B, 1 + T, D) of float images, differentiably.

        Args:
            images: B images (3, H, W) in [0, 1]; a list may have different sizes.

        Raises:
            InputError: another shape or dtype.
            UnfitImageError: the ratio of the sides is over 200.
        """
        rows, grids = [], []
        for image in images:
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                kind = f"{tuple(image.shape)} of {image.dtype}"
                raise InputError(
                    "Cannot use the pixels: each image must be a float tensor (3, H, W) in [0, 1], got "
                    f"{kind}."
                )
            levels = image.float() * 255
            for size in self.sizes(*image.shape[1:]):
                levels = _resized(levels, size)
            image_rows, grid = token_rows(levels, self.settings.patch)
            rows.append(image_rows)
            grids.append(grid)
        return self._packed(rows, grids)

    def _packed(self, rows: list[Tensor], grids: list[tuple[int, int]]) -> Tensor:
        """Return packed normalized rows of levels 0-255, (h w, D) for each image."""
        mean, std = (constant.view(3, 1) for constant in self._constants(rows[0].device))
        normalized = [
            ((image.view(len(image), MERGE**2, 3, -1) / 255 - mean) / std).flatten(1)[None] for image in rows
        ]
        return packed(normalized, grids)


def _resized(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return levels (3, H, W) resized by torch: antialiased bicubic, on 8 bits for uint8."""
    return F.interpolate(levels[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
