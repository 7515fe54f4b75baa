"""Products of activations with a layer's weights, by whichever library does them fastest here.

torch multiplies float32 matrices on a CPU by MKL, which keeps its fastest code for Intel's processors. On
AMD's, oneDNN, which comes with torch too, was twice as fast for the encoders' shapes (an EPYC with AVX-512,
see docs/performance.md). Both are float32; they add up in another order.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

ONEDNN = "REWARD_CORE_ONEDNN"  # in the environment: 0 or 1 decides, whatever the processor

# Below this many multiplications a product is over sooner than oneDNN has begun.
_WORTH = 1 << 20


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(x)``. By oneDNN where that is faster and no gradient is wanted."""
    weight = layer.weight
    if (
        type(layer) is nn.Linear  # an adapter's layer only begins with this product
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and weight.dtype is torch.float32 is x.dtype
        and weight.device.type == "cpu" == x.device.type
        and x.numel() * len(weight) >= _WORTH
        and weight.is_contiguous()  # expanded ones took oneDNN a hundred times as long
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and forward_ad._current_level < 0  # of forward-mode derivatives oneDNN's product knows nothing
        and onednn_is_faster()
    ):
        return _by_onednn(x, weight, layer.bias)
    return layer(x)


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether float32 products go to oneDNN: on AMD's processors, where torch's other way is MKL.

    ``REWARD_CORE_ONEDNN=0`` (or 1) decides otherwise.
    """
    wanted = os.environ.get(ONEDNN, "")
    if not torch.backends.mkldnn.is_available() or wanted == "0":
        return False
    if not (wanted == "1" or (torch.backends.mkl.is_available() and _vendor() == "AuthenticAMD")):
        return False
    return _works()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _works() -> bool:
    """Whether this torch has the operation, which inductor uses too, and it answers as expected."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((3, 5, 64), (32, 64), (32,)))
    try:
        with torch.no_grad():
            return torch.allclose(_by_onednn(x, weight, bias), F.linear(x, weight, bias), rtol=0, atol=1e-4)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False


def _vendor() -> str:
    """Of the processor, as it says itself: "AuthenticAMD", "GenuineIntel", ..."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux; Windows' name of the processor holds the vendor
        return "AuthenticAMD" if "AuthenticAMD" in platform.processor() else ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(found, "")
