"""In which numbers a model computes: "exact" is float32, the original's; "fast" is what the device does best.

In "fast" the encoders' weights and activations have 16 bits where the device multiplies such matrices
faster. The head, which would otherwise tie pictures that differ, stays in float32.
"""

from __future__ import annotations

import torch
from torch import nn

from .errors import InputError

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


def apply_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Bring a model's encoders, its ``blip``, to a dtype, in place."""
    if dtype != torch.float32:
        model.blip.to(dtype)


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
