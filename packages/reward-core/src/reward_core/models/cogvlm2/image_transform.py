"""CogVLM2's image transform: RGB, then both sides resized to the model's size, then normalized."""

from __future__ import annotations

from ...inputs.image_transform import ImageTransform
from ...inputs.square_image import SquareImage
from ..clip.transform import MEAN, STD


class StretchTransform(ImageTransform):
    """Image transform that resizes both sides (PIL bicubic) and so does not keep their ratio.

    PIL images are converted to RGB first: alpha is dropped, palettes and grays are expanded, EXIF rotation is
    ignored.

    Args:
        size: side S of the square that the vision tower reads, in pixels.
    """

    def __init__(self, size: int):
        super().__init__(size, MEAN, STD)
        self.square = SquareImage(size, rgb_first=True, stretch=True)
