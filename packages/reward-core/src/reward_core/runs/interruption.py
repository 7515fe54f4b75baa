"""Ctrl-C and SIGTERM wait for the step to end; a second one does not."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..printing.command_line import report

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context within which the signals are noted rather than obeyed at once."""

    def __init__(self, accelerator: Accelerator, name: str = "reward-core"):
        self.accelerator, self.name, self.noted = accelerator, name, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether any rank was asked to stop; the same answer on all."""
        flag = torch.tensor(float(self.noted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        if self.accelerator.is_main_process:
            report(self.name, "stopping after this step (again: at once)")
