"""Calls with other tensors as a module's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class _Call(nn.Module):
    def __init__(self, module: nn.Module, call: Callable[[], Any]):
        super().__init__()
        self.module, self.call = module, call

    def forward(self) -> Any:
        return self.call()


def call_with(module: nn.Module, tensors: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
    """Return the result of a function that uses the module, with other parameters or buffers.

    Args:
        module: the module. It gets its own tensors back.
        tensors: name within the module -> tensor to use instead.
        call: the function.
    """
    named = {f"module.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(_Call(module, call), named, ())
