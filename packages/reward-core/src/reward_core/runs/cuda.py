"""Copies, optimizer options and precision for CUDA GPUs. On a CPU they change nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device.

    The CPU does not wait for the copy of a CPU tensor to a GPU: torch keeps the pinned buffer until it is
    done.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.contiguous().pin_memory()
    return pinned.to(device, non_blocking=True)


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a CUDA GPU has instructions for bfloat16; a device without index is the current one."""
    with torch.cuda.device(device):  # torch asks the current device
        return torch.cuda.is_bf16_supported(including_emulation=False)


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
    """Allow or forbid TF32 in matrix products and convolutions; restore the setting of before on exit.

    TF32 keeps 10 of the 23 bits of a float32 number. torch allows it in convolutions by default.

    The settings are those of the process. Within a thread the innermost context counts; if threads differ,
    TF32 is forbidden, so that no thread loses precision.
    """
    context = object()
    _TF32.enter(context, allowed)
    try:
        yield
    finally:
        _TF32.exit(context)


class _Tf32Contexts:
    """The contexts of all threads. The first one saves torch's settings, and the last one restores them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entered: dict[object, tuple[int, bool]] = {}  # in order: context -> (thread, allowed)
        self.restore: Callable[[], None] = lambda: None

    def enter(self, context: object, allowed: bool) -> None:
        with self.lock:
            if not self.entered:
                self.restore = _tf32_settings()
            self.entered[context] = threading.get_ident(), allowed
            self._apply()

    def exit(self, context: object) -> None:
        with self.lock:
            del self.entered[context]
            if self.entered:
                self._apply()
            else:
                self.restore()

    def _apply(self) -> None:
        innermost = dict(self.entered.values())  # thread -> allowed
        allowed = all(innermost.values())
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


_TF32 = _Tf32Contexts()


def _tf32_settings() -> Callable[[], None]:
    """Return a function that restores the present settings."""
    products, convolutions = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    try:
        before = torch.get_float32_matmul_precision(), convolutions.allow_tf32
    except RuntimeError:  # the program used the settings of torch 2.9, which the older ones cannot express
        parts = (products, convolutions.conv, convolutions.rnn)
        new = [part.fp32_precision for part in parts]

        def restore_new() -> None:
            for part, precision in zip(parts, new):
                part.fp32_precision = precision

        return restore_new

    def restore() -> None:
        torch.set_float32_matmul_precision(before[0])
        convolutions.allow_tf32 = before[1]

    return restore


def without_tf32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which a GPU multiplies float32 numbers in full precision."""
    return tf32(False) if device.type == "cuda" else nullcontext()
