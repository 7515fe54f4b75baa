"""Float32 matrix products and convolutions without TF32 in any program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch


def full_float32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which a GPU multiplies float32 numbers in full precision.

    Trainers often allow TF32, which keeps 10 of 23 bits, and torch's convolutions use it by default.
    """
    return _without_tf32() if device.type == "cuda" else nullcontext()


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    new_settings = hasattr(matmul, "fp32_precision")  # torch 2.9 or later
    before = (matmul.fp32_precision, conv.conv.fp32_precision) if new_settings else (None, conv.allow_tf32)
    try:
        allowed = torch.get_float32_matmul_precision()
    except RuntimeError:  # set through the new settings alone
        allowed = None
    torch.set_float32_matmul_precision("highest")  # sets the new setting too
    try:
        if new_settings:
            conv.conv.fp32_precision = "ieee"
        else:
            conv.allow_tf32 = False
        yield
    finally:
        if allowed is not None:
            torch.set_float32_matmul_precision(allowed)
        if new_settings:
            matmul.fp32_precision, conv.conv.fp32_precision = before
        else:
            conv.allow_tf32 = before[1]
