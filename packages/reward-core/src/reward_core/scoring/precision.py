"""In which numbers a model computes: "exact" is float32, the original's; "fast" is what the device does best.

In "fast" the encoders' matrix products have 16 bits where the device multiplies such matrices faster. What
is summed up from layer to layer, the norms and the embeddings stay in float32, and so does the head, which
would otherwise tie images that differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InputError

PRECISIONS = ("exact", "fast", "auto")


def check_precision(precision: str) -> None:
    """Raise InputError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise InputError(f"precision must be one of {known}, got {precision!r}")


def encoder_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The encoders' dtype: float32 for "exact"; for "fast", 16 bits where the device gains by it.

    "auto" is "fast" on a GPU and "exact" on a CPU.
    """
    if precision == "exact" or (precision == "auto" and device.type != "cuda"):
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_features() & {"amx_bf16", "avx512_bf16"}:
        return torch.bfloat16
    return torch.float32


def apply_precision(model: Any, dtype: torch.dtype) -> None:
    """Bring the matrices of a model's encoders, its ``blip``, to a dtype, in place."""
    for module in model.blip.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def cpu_features() -> set[str]:
    """What the processor has for small numbers, such as "amx_bf16" and "avx512_bf16"."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 or later
    if capabilities is not None:
        return {name for name, has in capabilities().items() if has is True}
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:  # not Linux
        return set()
