"""Compile settings for GPUs, and uploads of pixels while a GPU computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..inputs.image_transform import ImageTransform
from .compiling import CompilePlan

# Autotuned kernels in one CUDA graph. Each shape (batch size and prompt length) runs uncompiled for its
# first 20 s, so the first scores do not wait for the compiler.
PLAN = CompilePlan(after=20.0, mode="max-autotune", shapes=16)


class Uploader:
    """A callable that moves decoded images to the model's device as normalized pixels.

    For a GPU the images are uploaded as 8-bit values through pinned memory on a separate stream. The GPU
    resizes, crops and normalizes them while it computes the previous batch.

    Args:
        transform: the model's image transform.
        device: the model's device.

    Shapes: B images, S image side.
    """

    def __init__(self, transform: ImageTransform, device: torch.device) -> None:
        self.transform, self.device = transform, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of B results of ``transform.prepare``."""
        if self.stream is None:
            return self.transform.finish(images, self.device)
        main = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            pixels = self.transform.finish(images, self.device)
        main.wait_stream(self.stream)
        pixels.record_stream(main)  # keeps the memory until the model has read it
        return pixels
