"""Image transform of VQAScore: pad to a square, resize, normalize.

Shapes: B images, H, W sides of an image, S side of the encoder's square.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...inputs.image_transform import ImageTransform
from ..clip.transform import MEAN, STD
from .padded_square import BACKGROUND, PaddedSquare, padding


class PaddedTransform(ImageTransform):
    """The transform of `PaddedSquare`, with CLIP's mean and standard deviation.

    Args:
        size: side S of the encoder's square.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, MEAN, STD)
        self.square = PaddedSquare(size)

    def resize(self, levels: Tensor) -> Tensor:
        """Pad levels 0-255 (B, 3, H, W) to squares and resize them to (B, 3, S, S)."""
        height, width = levels.shape[-2:]
        side, (left, top) = max(width, height), padding(width, height)
        background = torch.tensor(BACKGROUND, dtype=levels.dtype, device=levels.device).view(3, 1, 1)
        square = background.expand(len(levels), 3, side, side).clone()
        square[..., top : top + height, left : left + width] = levels
        return super().resize(square)
