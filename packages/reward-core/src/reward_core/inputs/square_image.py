"""Squares of PIL images: resize the shorter side, crop the center, convert to RGB; or resize both sides.

Processes that decode images import this module, so it works without torch.

Shapes: S side of the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import bicubic

# Of an enlarged image with more pixels than this, only the crop is computed.
_ENLARGED_LIMIT = 2_000_000
# An image with alpha and more pixels than this is shrunk in strips of about this many pixels.
_STRIP_PIXELS = 1 << 24
# An image with more pixels than this is shrunk by PIL before it is uploaded to a GPU.
_DEVICE_LIMIT = 1 << 21
_EIGHT_BIT_MODES = {"L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}  # PIL resizes colors weighted by their alpha


@dataclass(frozen=True)
class SquareImage:
    """The square that an encoder reads of an image.

    Attributes:
        size: side S of the square, in pixels.
        rgb_first: convert to RGB before resizing and round the crop's left and top down, as the CLIP
            processor of transformers does.
        stretch: resize both sides to ``size`` instead of the shorter one, so that nothing is cropped.
    """

    size: int
    rgb_first: bool = False
    stretch: bool = False

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after resizing: the shorter side, or both if stretched, are ``size``."""
        return (self.size, self.size) if self.stretch else resized_size(width, height, self.size)

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the center square of a resized image.

        Half pixels are rounded to even, as in torchvision, or down.
        """
        across, down = width - self.size, height - self.size
        left, top = (across // 2, down // 2) if self.rgb_first else (round(across / 2), round(down / 2))
        return left, top, left + self.size, top + self.size

    def levels(self, image: Image.Image) -> np.ndarray:
        """Return an image of any size and mode as (S, S, 3) uint8 RGB, as in the original."""
        if self.rgb_first:
            image = image.convert("RGB")
        width, height = image.size
        new = self.resized_size(width, height)
        box = self.crop_box(*new)
        enlarged = new[0] * new[1] > max(_ENLARGED_LIMIT, width * height)
        if enlarged and not bicubic.is_vertical_first(image.size, new):
            cropped = _enlarge_window(image, new, box)
        elif image.mode in _PREMULTIPLIED and width * height > _STRIP_PIXELS:
            cropped = _shrink_in_strips(image, new).crop(box)
        else:
            cropped = image.resize(new, Image.Resampling.BICUBIC).crop(box)
        rgb = cropped if cropped.mode == "RGB" else _opaque(cropped).convert("RGB")
        return np.array(rgb)

    def shrinks(self, image: Image.Image) -> bool:
        """Return whether a GPU that resizes images should shrink this one."""
        small = image.width * image.height <= _DEVICE_LIMIT
        return small and self.size <= min(image.size) and image.mode == "RGB"


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side scaled to ``size``."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _enlarge_window(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Return image.resize(size, BICUBIC).crop(box) without the whole resized image."""
    left, top, right, bottom = box
    if image.mode in ("1", "P"):
        # Nearest-neighbor only selects pixels, so the image can be converted first.
        rgb = np.asarray(_opaque(image.copy()).convert("RGB"))
        rows = bicubic.nearest_indices(image.height, size[1], top, bottom)
        columns = bicubic.nearest_indices(image.width, size[0], left, right)
        return Image.fromarray(rgb[rows][:, columns])
    if image.mode in _PREMULTIPLIED:
        premultiplied = image.convert(_PREMULTIPLIED[image.mode])
        return _enlarge_window(premultiplied, size, box).convert(image.mode)
    if image.mode in _EIGHT_BIT_MODES or image.mode in bicubic.DEEP_ROUNDING:
        pixels = np.asarray(image)
        window = bicubic.resize_window(pixels.reshape(image.height, image.width, -1), size, box, image.mode)
        return Image.frombytes(image.mode, (right - left, bottom - top), window.tobytes())
    return image.resize(size, Image.Resampling.BICUBIC).crop(box)


def _opaque(image: Image.Image) -> Image.Image:
    """Remove the transparent color of our copy, about which Pillow would warn."""
    image.info.pop("transparency", None)
    return image


def _shrink_in_strips(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return image.resize(size, BICUBIC) of an image with alpha, in less memory."""
    width, height = image.size
    mode, (new_width, new_height) = _PREMULTIPLIED[image.mode], size
    vertical_first = bicubic.is_vertical_first(image.size, size)
    # Pillow's two passes are independent, so the first one can run strip by strip.
    halfway = Image.new(mode, (width, new_height) if vertical_first else (new_width, height))
    length, breadth = (width, height) if vertical_first else (height, width)
    step = max(1, _STRIP_PIXELS // breadth)
    for start in range(0, length, step):
        stop = min(length, start + step)
        box = (start, 0, stop, height) if vertical_first else (0, start, width, stop)
        target = (stop - start, new_height) if vertical_first else (new_width, stop - start)
        strip = image.crop(box).convert(mode).resize(target, Image.Resampling.BICUBIC)
        halfway.paste(strip, (start, 0) if vertical_first else (0, start))
    return halfway.resize(size, Image.Resampling.BICUBIC).convert(image.mode)
