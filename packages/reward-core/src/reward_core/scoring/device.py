"""The device that a model computes on."""

from __future__ import annotations

from typing import TypeAlias

import torch

from ..errors import InputError

Device: TypeAlias = "str | torch.device | None"


def default_device() -> str:
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: Device) -> torch.device:
    """The device asked for, or the default; an InputError, before any work, if it cannot be used."""
    device = default_device() if device is None else device
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from error
