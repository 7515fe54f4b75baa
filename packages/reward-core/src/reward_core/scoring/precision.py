"""Precisions of scoring: "exact", "fast" and "auto".

"exact" is float32, as in the original. "fast" uses 16 bits where that is faster, but only for the matrix
products of the encoders. The residual stream, the norms, the embeddings and the head stay in float32: a
16-bit head would give equal rewards to similar images. "auto" is "fast" on a GPU and "exact" elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InputError

PRECISIONS = ("exact", "fast", "auto")


def check_precision(precision: str) -> None:
    """Raise InputError unless ``precision`` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise InputError(f"Cannot use precision {precision!r}: it must be one of {known}.")


def encoder_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the encoders' matrices.

    "exact" is float32. "fast" is a 16-bit dtype if the device is faster with it. "auto" is "fast" on a GPU
    and "exact" elsewhere.
    """
    if precision == "exact" or (precision == "auto" and device.type != "cuda"):
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_features() & {"amx_bf16", "avx512_bf16"}:
        return torch.bfloat16
    return torch.float32


def apply_precision(model: Any, dtype: torch.dtype) -> None:
    """Convert the matrices of ``model.blip`` to a dtype, in place."""
    convert_matrices(model.blip, dtype)


def convert_matrices(part: nn.Module, dtype: torch.dtype) -> None:
    """Convert the linear layers and convolutions of a module to a dtype, in place."""
    for module in part.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def convert_all_but_scale(clip: Any, dtype: torch.dtype) -> None:
    """Convert a transformers CLIPModel to a dtype, in place.

    ``logit_scale`` stays in float32: in bfloat16 it changes every score by 1%.
    """
    scale = clip.logit_scale.data
    clip.to(dtype)
    clip.logit_scale.data = scale.float()


def cpu_features() -> set[str]:
    """Return the instruction sets of the CPU, such as "amx_bf16" and "avx512_bf16"."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 or later
    if capabilities is not None:
        return {name for name, has in capabilities().items() if has is True}
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:  # not Linux
        return set()
