"""Squares of VQAScore: pad an image to a square, resize it.

Processes that decode images import this module, so it works without torch.

Shapes: S side of the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...inputs.image_file import UnfitImageError
from ...inputs.square_image import SquareImage

BACKGROUND = (122, 116, 104)  # CLIP's mean, rounded down to levels
MOST_SIDE = 1 << 16  # the memory of a square grows with its side
_STRIP_PIXELS = 1 << 24  # a square with more pixels is resized in strips


def padding(width: int, height: int) -> tuple[int, int]:
    """Return the pixels to the left and above an image in its square; an odd pixel is on the other side."""
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2


@dataclass(frozen=True)
class PaddedSquare(SquareImage):
    """The square around an image, resized by PIL (bicubic) to ``size``. Alpha is dropped first."""

    rgb_first: bool = True

    def levels(self, image: Image.Image) -> np.ndarray:
        """Return an image of any size and mode as (S, S, 3) uint8 RGB.

        Raises:
            UnfitImageError: a side is longer than MOST_SIDE.
        """
        image = image.convert("RGB")
        side, (left, top) = max(image.size), padding(*image.size)
        if side > MOST_SIDE:
            raise UnfitImageError(f"its longer side, {side:,} pixels, is over {MOST_SIDE:,}. Crop it")
        # PIL resizes rows first. Rows are independent, so the whole square is never in memory, and rows of
        # the background stay as they are.
        halfway = Image.new("RGB", (self.size, side), BACKGROUND)
        step = max(1, _STRIP_PIXELS // side)
        for start in range(0, image.height, step):
            stop = min(image.height, start + step)
            strip = Image.new("RGB", (side, stop - start), BACKGROUND)
            strip.paste(image.crop((0, start, image.width, stop)), (left, 0))
            resized = strip.resize((self.size, stop - start), Image.Resampling.BICUBIC)
            halfway.paste(resized, (0, top + start))
        return np.array(halfway.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def shrinks(self, image: Image.Image) -> bool:
        """Return False: no GPU pads like this."""
        return False
