"""What a training run knows of itself between two steps."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SKIPPED = 10  # steps skipped in a row that end a run


@dataclass
class RunState:
    """State that both trainers save with every checkpoint.

    Attributes:
        step: optimizer steps done.
        skipped: steps skipped so far.
        skipped_in_a_row: the most recent of them, without a finite loss, reward or gradient.
        best: best validation so far; its weights are saved.
        best_step: step of that validation.
        worse: validations in a row that were worse.
        stopped: why the run stopped early; empty if it did not.
        processes: of the run, which random states depend on.
        fingerprint: of the settings and data that decide the outcome.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: str = ""
    processes: int = 1
    fingerprint: str = ""

    def differences(self, other: RunState) -> list[str]:
        """Name what differs from the state of another run, where more than its fingerprint says so."""
        return []
