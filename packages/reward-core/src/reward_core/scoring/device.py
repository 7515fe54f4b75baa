"""Choice of the device that a model computes on."""

from __future__ import annotations

from typing import TypeAlias

import torch

from ..errors import InputError

Device: TypeAlias = "str | torch.device | None"


def default_device() -> str:
    """Return "cuda" if available, else "mps" if available, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: Device) -> torch.device:
    """Return the device, or the default for None, after testing that it works.

    Raises:
        InputError: a device that cannot be used.
    """
    device = default_device() if device is None else device
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"Cannot use device {str(device)!r}: {reason.rstrip('.')}.") from error
