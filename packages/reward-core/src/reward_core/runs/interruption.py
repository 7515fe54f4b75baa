"""Ctrl-C and SIGTERM let the current step end; a second one does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first signal only sets a flag.

    Args:
        report: takes a line for the user.
    """

    def __init__(self, accelerator: Accelerator, report: Callable[[str], None]):
        self.accelerator, self.report, self.noted = accelerator, report, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Return whether any rank was asked to stop; the same answer on all."""
        flag = torch.tensor(float(self.noted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.report("stopping after this step (again: at once)")
