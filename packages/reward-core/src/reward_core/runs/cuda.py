"""Copies, optimizer options and precision for CUDA GPUs. On a CPU they change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a CPU tensor on a device.

    The CPU does not wait for a copy to a GPU: torch keeps the pinned buffer until the copy is done.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fused_option(parameters: Iterable[Tensor]) -> dict[str, bool]:
    """Return ``fused=True`` for Adam and AdamW if all parameters are floats on a GPU, else nothing."""
    if all(p.device.type == "cuda" and p.is_floating_point() for p in parameters):
        return {"fused": True}
    return {}


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state but keep its own choice of a fused step.

    torch would take the choice from the state, which may come from another device.
    """
    groups = [
        {**saved, "fused": own["fused"]} if "fused" in own else saved
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products and convolutions; restore the setting of before on exit."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
