"""State of a training run between two steps."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SKIPPED = 10  # number of skipped steps in a row that ends a run


@dataclass
class RunState:
    """State that both trainers save in every checkpoint.

    Attributes:
        step: number of steps done.
        skipped: number of steps skipped so far.
        skipped_in_a_row: number of last steps that were skipped, without a finite loss, reward or gradient.
        best: best validation result so far; its weights are saved.
        best_step: step of that validation.
        worse: number of last validations that were worse.
        stopped: why the run stopped early, or "".
        processes: number of processes, which random states depend on.
        fingerprint: fingerprint of the settings and data that affect the result.
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
        """Return descriptions of differences from another run (none by default)."""
        return []
