"""The dtypes that settings name."""

from __future__ import annotations

import torch
from torch import nn

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


_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def cast_by_autocast(module: nn.Module) -> set[str]:
    """Return the names of the parameters that only linear layers and convolutions use.

    Autocast casts these to half precision in every pass.
    """
    uses = [
        (f"{prefix}.{name}" if prefix else name, id(parameter), isinstance(part, _CAST))
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
    ]
    others = {parameter for _, parameter, is_cast in uses if not is_cast}
    return {name for name, parameter, is_cast in uses if is_cast and parameter not in others}
