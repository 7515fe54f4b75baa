"""The dtypes that settings name."""

from __future__ import annotations

import torch

DTYPES = {
    "": torch.float32,
    "no": torch.float32,  # accelerate's name
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(device: torch.device, dtype: torch.dtype, cache: bool = True) -> torch.autocast:
    """Return the autocast context of a dtype; for float32 it turns autocast off.

    Args:
        device: the device.
        dtype: the dtype.
        cache: keep the weights that were cast until autocast ends.
    """
    half = None if dtype == torch.float32 else dtype
    return torch.autocast(device.type, half, enabled=half is not None, cache_enabled=cache)
