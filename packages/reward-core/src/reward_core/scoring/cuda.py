"""What is particular to a GPU: how to compile for it, and how pixels get there while it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..inputs.image_transform import ImageTransform
from .compiling import CompilePlan

# Kernels chosen by trying them, launched as one CUDA graph. Until some seconds of work have gone by in a
# shape (a batch size, a length of prompts) it runs uncompiled, so that the first scores are there at once.
PLAN = CompilePlan(after=20.0, mode="max-autotune", shapes=16)


class Uploader:
    """Images from the threads that opened them -> normalized pixels on the model's device.

    On a GPU they go as 8-bit levels through pinned memory on a stream of their own, and are resized, cropped
    and normalized there, while the batch before still computes.

    Args:
        transform: the model's.
        device: where pixels are wanted.
    """

    def __init__(self, transform: ImageTransform, device: torch.device) -> None:
        self.transform, self.device = transform, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """What ``transform.prepare`` gave of B images -> normalized pixels (B, 3, S, S)."""
        if self.stream is None:
            return self.transform.finish(images, self.device)
        main = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            pixels = self.transform.finish(images, self.device)
        main.wait_stream(self.stream)
        pixels.record_stream(main)  # its memory is not given away before the model has read it
        return pixels
