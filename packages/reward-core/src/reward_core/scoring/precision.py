"""Precisions of scoring: "exact", "fast", "int8" and "auto".

"exact" is float32, as in the original. "fast" uses 16 bits where that is faster, but only for the matrix
products of the encoders. The residual stream, the norms, the embeddings and the head stay in float32: a
16-bit head would give equal rewards to similar images. "int8" computes these products in 8 bits on a CPU
(network/int8_ops.py); the weights of the model stay in float32. "auto" is "fast" on a GPU and "exact"
elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..network.int8_ops import int8_works
from ..runs.cuda import computes_bfloat16

PRECISIONS = ("exact", "fast", "int8", "auto")
INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni")  # instruction sets, one of which int8 needs


def check_precision(precision: str) -> None:
    """Raise InputError unless ``precision`` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise InputError(f"Cannot use precision {precision!r}: it must be one of {known}.")


def encoder_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the encoders' matrices.

    "exact" and "int8" are float32; the layers of the latter are quantized later. "fast" is a 16-bit dtype if
    the device is faster with it. "auto" is "fast" on a GPU and "exact" elsewhere.
    """
    if precision in ("exact", "int8") or (precision == "auto" and device.type != "cuda"):
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float16
    if device.type == "cpu" and cpu_features() & {"amx_bf16", "avx512_bf16"}:
        return torch.bfloat16
    return torch.float32


def number_format(precision: str, device: torch.device) -> str:
    """Return the format of the numbers in the encoders' matrix products, such as "bfloat16"."""
    return "int8" if precision == "int8" else str(encoder_dtype(precision, device)).removeprefix("torch.")


def check_int8(device: torch.device) -> None:
    """Raise InputError unless a device can compute linear layers in int8."""
    if device.type != "cpu":
        raise InputError(
            f"Cannot use precision 'int8' on {device}: it is for CPUs. Use precision 'fast' or device 'cpu'."
        )
    if not cpu_features() & set(INT8_FEATURES):
        raise InputError(
            f"Cannot use precision 'int8' on this CPU: it has none of {', '.join(INT8_FEATURES)}. "
            "Use precision 'fast' or 'exact'."
        )
    if not int8_works():
        raise InputError(
            f"Cannot use precision 'int8': torch {torch.__version__} cannot multiply int8 matrices here. "
            "Use precision 'fast' or 'exact'."
        )


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
