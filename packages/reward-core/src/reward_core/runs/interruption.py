"""Interruption of a run by Ctrl-C or SIGTERM at the end of the current step."""

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
    """A context in which a first signal only sets a flag and a second one interrupts.

    Args:
        accelerator: accelerator of the run.
        report: function that prints a line for the user.
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
        """Return whether any rank received a signal; the result is the same on all ranks."""
        flag = torch.tensor(float(self.noted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        self.report("stopping after this step (press again to stop at once)")
