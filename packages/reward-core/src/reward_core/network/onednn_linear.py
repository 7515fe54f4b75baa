"""Linear layers computed by oneDNN, which is faster than MKL on some processors.

torch multiplies float32 matrices on a CPU with MKL, which is fastest on Intel processors. oneDNN is part of
torch too and was twice as fast on an AMD EPYC with AVX-512 at the shapes of the encoders
(docs/performance.md). Both compute in float32 but add in a different order.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

ONEDNN = "REWARD_CORE_ONEDNN"  # environment variable: 0 or 1 overrides the choice by processor

# For fewer multiplications, the overhead of oneDNN is larger than the product.
MIN_MULTIPLICATIONS = 1 << 20


class OneDNNLinear(nn.Linear):
    """A linear layer that uses oneDNN in float32 inference on a CPU, otherwise torch."""

    def forward(self, input: Tensor) -> Tensor:
        large = input.numel() * self.out_features >= MIN_MULTIPLICATIONS
        if large and torch_is_free() and inputs_fit(self, input) and not needs_derivative(self, input):
            return onednn_linear(input, self.weight, self.bias)
        return super().forward(input)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not onednn_is_faster():  # pickled on another machine
            self.__class__ = nn.Linear  # type: ignore[assignment]  # undoes use_onednn


def use_onednn(model: nn.Module) -> None:
    """Compute the linear layers of a model with oneDNN if it is faster on this CPU.

    Works in place. Subclasses of ``nn.Linear`` and the names and tensors of the model do not change.
    """
    if not onednn_is_faster():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear


def torch_is_free() -> bool:
    """Return whether neither a compiler nor autocast chooses the kernels."""
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def inputs_fit(layer: nn.Linear, x: Tensor) -> bool:
    """Return whether oneDNN supports the input and the weight: float32 on a CPU.

    The weight must be an ordinary parameter (not quantized or parametrized) and contiguous (oneDNN took a
    hundred times as long with an expanded one).
    """
    weight = layer.weight
    return (
        type(weight) is nn.Parameter
        and weight.dtype is torch.float32 is x.dtype
        and weight.device.type == "cpu" == x.device.type
        and weight.is_contiguous()
    )


def needs_derivative(layer: nn.Linear, x: Tensor) -> bool:
    """Return whether a derivative is needed, which the oneDNN operation does not have."""
    if forward_ad._current_level >= 0:
        return True
    tensors = (x, layer.weight) if layer.bias is None else (x, layer.weight, layer.bias)
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.linear`` with the oneDNN operation that inductor uses."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Return whether oneDNN works and is faster: on AMD processors instead of MKL.

    ``REWARD_CORE_ONEDNN=0`` or ``1`` overrides the choice by processor.
    """
    setting = os.environ.get(ONEDNN, "")
    if not torch.backends.mkldnn.is_available() or setting == "0":
        return False
    is_amd_with_mkl = torch.backends.mkl.is_available() and processor_vendor() == "AuthenticAMD"
    return (setting == "1" or is_amd_with_mkl) and onednn_works()


def onednn_works() -> bool:
    """Return whether torch has the oneDNN operation and it agrees with ``F.linear``."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((3, 5, 64), (32, 64), (32,)))
    try:
        with torch.no_grad():
            y = onednn_linear(x, weight, bias)
            return torch.allclose(y, F.linear(x, weight, bias), rtol=0, atol=1e-4)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False


def processor_vendor() -> str:
    """Return the vendor id of the CPU, such as "AuthenticAMD", or "" if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux; on Windows the name of the processor contains the vendor
        return "AuthenticAMD" if "AuthenticAMD" in platform.processor() else ""
    vendors = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(vendors, "")
