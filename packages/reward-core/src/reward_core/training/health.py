"""Runs that come to nothing, told while there is time, with the likely reason."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, median

from .config import TrainingConfig

LOG_2 = math.log(2)
STUCK = 1e-3  # from log 2, on average
WINDOW = 50  # steps
EXPLODING = 100  # times the median norm of the gradient
MAX_SKIPPED = 10  # steps in a row without a finite loss or gradient that end a run


class Health:
    """Watches losses, gradients and rewards; each kind of trouble is told once."""

    def __init__(self, settings: TrainingConfig):
        self.settings = settings
        self.losses: deque[float] = deque(maxlen=min(WINDOW, settings.stuck_after))
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.reported: set[str] = set()

    def observe(self, step: int, loss: float, norm: float, spread: float, rate: float) -> list[str]:
        """What to tell after a step.

        Args:
            step: steps done. loss: of the step. norm: of its gradient before clipping.
            spread: standard deviation of the step's rewards. rate: the learning rate.
        """
        messages = []
        if math.isfinite(loss):
            self.losses.append(loss)
        full = step >= self.settings.stuck_after and len(self.losses) == self.losses.maxlen
        if full and abs(fmean(self.losses) - LOG_2) < STUCK and "stuck" not in self.reported:
            self.reported.add("stuck")
            messages.append(
                f"the loss is {fmean(self.losses):.4f} after {step} steps, which is log 2: the model "
                f"does not tell better from worse. Likely reason: {self._why_stuck(spread, rate)}"
            )
        if len(self.norms) >= 20 and math.isfinite(norm) and "exploding" not in self.reported:
            usual = median(self.norms)
            if norm > EXPLODING * usual > 0:
                self.reported.add("exploding")
                messages.append(
                    f"the gradient's norm is {norm:.3g} at step {step}, {norm / usual:.0f} times the usual "
                    f"{usual:.3g}. Likely reason: the learning rate {rate:.2g} is too high, or rises too "
                    "fast; lower lr, raise warmup_steps" + ("" if self.settings.clip else ", or set clip=1")
                )
        if math.isfinite(norm):
            self.norms.append(norm)
        return messages

    def _why_stuck(self, spread: float, rate: float) -> str:
        if spread < 0.05:
            original = self.settings.head_init == "original"
            because = "the head started at almost zero (head_init=original); " if original else ""
            return f"{because}rewards are almost equal (they spread by {spread:.1g}); take head_init=scaled"
        if rate < 1e-6:
            return f"the learning rate is only {rate:.1g}; raise lr"
        return (
            f"rewards differ (they spread by {spread:.2g}), but not as the rankings do. Check that 1 is the "
            "best place in the data and that prompts belong to their images; else raise lr or lower freeze"
        )

    @staticmethod
    def why_not_finite(settings: TrainingConfig, precision: str, finite_weights: bool) -> str:
        """Of steps without a finite loss or gradient."""
        if not finite_weights:
            return (
                "the weights themselves are not finite: the init is damaged, or an earlier step spoiled them"
            )
        if precision == "fp16":
            return "fp16 overflows; take mixed_precision=bf16 or no"
        return f"the learning rate {settings.lr:.2g} is too high; lower lr, or set clip=1"
