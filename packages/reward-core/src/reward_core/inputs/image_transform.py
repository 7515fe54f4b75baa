"""Transforms from images to the pixels that the encoder reads.

PIL images are transformed exactly as in the original: resize the shorter side to S (bicubic), center crop,
convert to RGB, divide by 255, normalize. In this order a palette image is resized as a palette, alpha is
dropped, and EXIF rotation is ignored. Float tensors are transformed differentiably, in PIL's 8-bit passes.

Shapes: B batch, H, W image, S side of the encoder's square.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError
from ..runs.cuda import without_tf32
from . import bicubic
from .device_resize import resized_on_device
from .pixel_memory import rgb_memory
from .square_image import SquareImage


class ImageTransform(nn.Module):
    """A transform that resizes, crops and normalizes images for a model.

    Args:
        size: side S of the square that the encoder reads, in pixels.
        mean, std: mean and standard deviation per RGB channel, for pixels in [0, 1].

    Attributes:
        square: how PIL images become squares.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size = size
        self.square = SquareImage(size)
        # Constants are not in the state dict, and stay on the CPU while a model is built on "meta".
        self._cpu_constants = tuple(
            torch.tensor(value, dtype=torch.float32, device="cpu").view(3, 1, 1) for value in (mean, std)
        )
        for name, constant in zip(("mean", "std"), self._cpu_constants):
            self.register_buffer(name, constant, persistent=False)

    @property
    def prepares_with_pil(self) -> bool:
        """Whether ``square`` does all of the preparation, so that processes without torch can do it.

        False for a subclass that prepares images in another way.
        """
        methods = ("prepare", "prepare_for_device", "to_uint8", "crop_box")
        return all(getattr(type(self), name) is getattr(ImageTransform, name) for name in methods)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """A value that differs between transforms whose class, square, mean or std differ."""
        return type(self), self.square, *(tuple(c.flatten().tolist()) for c in self._cpu_constants)

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the center square of a resized image."""
        return self.square.crop_box(width, height)

    def to_uint8(self, image: Image.Image) -> np.ndarray:
        """Return an image of any size and mode as (S, S, 3) uint8 RGB, as in the original."""
        return self.square.levels(image)

    def from_pil(self, image: Image.Image) -> Tensor:
        """Return normalized pixels (3, S, S) float32 of a PIL image, on the CPU."""
        return self.finish(self.prepare(image)[None])[0]

    def from_uint8(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of RGB images (B, S, S, 3) uint8."""
        return self._normalized(images.to(self.mean.device).permute(0, 3, 1, 2).float())

    # The two halves of from_pil: threads prepare single images on the CPU, and the model's device finishes a
    # whole batch.

    def prepare(self, image: Image.Image) -> Tensor:
        """Return a PIL image as levels (S, S, 3) uint8 on the CPU, for ``finish``."""
        return torch.from_numpy(self.to_uint8(image))

    def prepare_for_device(self, image: Image.Image) -> Tensor:
        """Return a PIL image for a GPU that resizes images itself, in page-locked memory where that helps.

        An image that is shrunk keeps its size: (H, W, 3 or 4) uint8. Others are prepared by ``prepare``.
        """
        if not self.square.shrinks(image):
            return self.prepare(image)
        memory = rgb_memory(image)
        levels = torch.empty(memory.shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        np.copyto(levels.numpy(), memory)  # without Python's lock, and without torch's threads
        return levels

    def resize_on_device(self, levels: Tensor) -> Tensor:
        """Resize and crop levels (B, H, W, C) uint8 on a GPU to (B, S, S, 3), exactly as PIL does."""
        height, width = levels.shape[1:3]
        new_size = self.square.resized_size(width, height)
        return resized_on_device(levels, new_size, self.crop_box(*new_size))

    def finish(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of B stacked results of ``prepare``, on their device."""
        return self._normalized(images.permute(0, 3, 1, 2).float())

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of float images, differentiably.

        Rounding and clamping pass gradients straight through. Before normalization the pixels differ from
        PIL's by at most 1/255 when shrinking and 2/255 when enlarging.

        Args:
            images: (B, 3, H, W) in [0, 1], with any H and W.

        Raises:
            InputError: another shape or dtype.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"Cannot use the pixels: they must be a float tensor (B, 3, H, W) in [0, 1], got "
                f"{tuple(images.shape)} of {images.dtype}."
            )
        return self._normalized(self.resize(images.float() * 255))

    def resize(self, levels: Tensor) -> Tensor:
        """Resize and crop levels 0-255 (B, 3, H, W) to the center (B, 3, S, S)."""
        height, width = levels.shape[-2:]
        with torch.autocast(levels.device.type, enabled=False), without_tf32(levels.device):
            for dim, *sizes in self._passes(height, width):
                levels = _one_pass(levels, dim, *sizes)
        return levels

    def resize_matrices(self, height: int, width: int, device: torch.device) -> list[Tensor]:
        """Return the matrices with which ``resize`` multiplies; CUDA graphs read them where they are."""
        return [
            _pass_matrix(source, target, start, stop, device)
            for _, source, target, start, stop in self._passes(height, width)
            if source != target
        ]

    def _passes(self, height: int, width: int) -> list[tuple[int, int, int, int, int]]:
        """Return the passes of a resize: (axis, source, target, first and last target pixel)."""
        new_width, new_height = self.square.resized_size(width, height)
        left, top, right, bottom = self.crop_box(new_width, new_height)
        passes = [(-1, width, new_width, left, right), (-2, height, new_height, top, bottom)]
        if bicubic.is_vertical_first((width, height), (new_width, new_height)):
            passes.reverse()
        return passes

    def _normalized(self, levels: Tensor) -> Tensor:
        mean, std = self._constants(levels.device)
        return (levels / 255 - mean) / std

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and std (3, 1, 1) on a device. Threads that decode never read them from a GPU."""
        if self.mean.device == device:
            return self.mean, self.std
        return self._cpu_constants[0].to(device), self._cpu_constants[1].to(device)


def _one_pass(x: Tensor, dim: int, source: int, target: int, start: int, stop: int) -> Tensor:
    """Return target pixels start to stop of a resize along ``dim`` (-1 or -2)."""
    if source == target:
        return x.narrow(dim, start, stop - start)
    matrix = _pass_matrix(source, target, start, stop, x.device)
    x = x @ matrix.T if dim == -1 else matrix @ x
    # Round to levels 0-255 with the gradient of the identity (straight-through).
    return x + (x.detach().add(0.5).floor().clamp(0, 255) - x.detach())


@lru_cache(maxsize=64)
def _pass_matrix(source: int, target: int, start: int, stop: int, device: torch.device) -> Tensor:
    """Return one pass of PIL's resize as a matrix (stop - start, source) float32."""
    taps = bicubic.bicubic_taps(source, target, start, stop)
    matrix = np.zeros((stop - start, source))
    rows = np.arange(stop - start)[:, None]
    np.add.at(matrix, (rows, taps.indices), taps.fixed_point / (1 << bicubic.PRECISION_BITS))
    with torch.inference_mode(False):  # the matrix is cached, and a later call may need gradients
        return torch.from_numpy(matrix).to(device=device, dtype=torch.float32)
