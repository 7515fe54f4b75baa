"""Text encoders that are on the GPU only while they encode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class OffloadedTextEncoders:
    """The text encoders of a pipeline, kept in the CPU's memory.

    Their tensors are copied to the device for each use and dropped afterwards, so nothing is copied back.

    Args:
        pipeline: a diffusers pipeline, on the CPU.
        device: device on which prompts are encoded.
    """

    def __init__(self, pipeline: Any, device: torch.device):
        self.device = device
        self.tensors: list[tuple[Tensor, Tensor]] = []  # tensor of a module -> its values on the CPU
        for name, module in pipeline.components.items():
            if is_text_encoder(name, module):
                for tensor in (*module.parameters(), *module.buffers()):
                    values = tensor.data
                    if device.type == "cuda":  # page-locked, so that copies are fast
                        values = tensor.data = values.pin_memory()
                    self.tensors.append((tensor, values))

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Have the encoders on the device in the context."""
        try:
            for tensor, values in self.tensors:
                tensor.data = values.to(self.device, non_blocking=True)
            yield
        finally:
            for tensor, values in self.tensors:
                tensor.data = values


def is_text_encoder(name: str, module: Any) -> bool:
    """Return whether a component of a pipeline encodes prompts."""
    return name.startswith("text_encoder") and isinstance(module, nn.Module)
