"""Runs that will not succeed, reported early and with the likely reason."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean, median

from torch import nn

from ..errors import TrainingError
from ..runs.run_state import MAX_SKIPPED
from ..runs.training_run import TrainingRun
from .config import TrainingConfig
from .group_reader import GroupReader
from .step import StepMetrics
from .training_state import TrainingState

LOG_2 = math.log(2)
STUCK = 1e-3  # from log 2, on average
WINDOW = 50  # steps
EXPLODING = 100  # times the median norm of the gradient


class Health:
    """Watches losses, gradients and rewards; reports each kind of trouble once.

    Args:
        settings: of the run.
        precision: of the arithmetic: "no", "bf16" or "fp16".
    """

    def __init__(self, settings: TrainingConfig, precision: str):
        self.settings, self.precision = settings, precision
        self.losses: deque[float] = deque(maxlen=min(WINDOW, settings.stuck_after))
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def check(self, run: TrainingRun[TrainingState], metrics: StepMetrics, rewards: nn.Module) -> None:
        """Warn of what a step shows.

        Args:
            rewards: the module that is trained.

        Raises:
            TrainingError: too many steps in a row without a finite loss or gradient.
        """
        state = run.state
        for kind, message in self._troubles(state.step, metrics).items():
            if kind not in state.reported:
                state.reported = sorted([*state.reported, kind])
                run.warn(message)
        if not metrics.pairs:
            run.warn(f"step {state.step} was skipped: none of its pairs of images can be read")
        elif not metrics.finite:
            run.warn(f"step {state.step} was skipped: its loss or gradient is not finite")
        if state.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"{MAX_SKIPPED} steps in a row, up to step {state.step}, had no finite loss or gradient. "
                f"Likely reason: {self._why_not_finite(rewards)}"
            )

    def check_outcome(
        self, run: TrainingRun[TrainingState], readers: Mapping[str, GroupReader], rewards: nn.Module
    ) -> None:
        """Raise TrainingError if all steps were skipped, or no validation gave finite rewards."""
        state = run.state
        if state.skipped >= state.step > 0:
            bad = next(iter(readers["train"].skipped.items()), None)
            because = f": images cannot be read, such as {bad[0]}: {bad[1]}" if bad else ""
            raise TrainingError(f"all {state.step} steps were skipped{because}")
        if "validation" in readers and state.best is None:
            raise TrainingError(
                "no validation gave finite rewards, so no weights were saved. "
                f"Likely reason: {self._why_not_finite(rewards)}"
            )

    def _troubles(self, step: int, metrics: StepMetrics) -> dict[str, str]:
        """Return messages by kind."""
        found = {}
        if math.isfinite(metrics.loss):
            self.losses.append(metrics.loss)
        full = step >= self.settings.stuck_after and len(self.losses) == self.losses.maxlen
        if full and abs(fmean(self.losses) - LOG_2) < STUCK:
            found["stuck"] = (
                f"the loss is {fmean(self.losses):.4f} after {step} steps, which is log 2: the model cannot "
                f"distinguish good images from bad ones. Likely reason: {self._why_stuck(metrics)}"
            )
        norm = metrics.gradient_norm
        if len(self.norms) >= 20 and math.isfinite(norm):
            usual = median(self.norms)
            if norm > EXPLODING * usual > 0:
                found["exploding"] = (
                    f"the gradient norm is {norm:.3g} at step {step}, {norm / usual:.0f} times the usual "
                    f"{usual:.3g}. Likely reason: the learning rate {metrics.lr:.2g} is too high, or rises "
                    "too fast; lower lr, raise warmup_steps"
                    + ("" if self.settings.clip else ", or set clip=1")
                )
        if math.isfinite(norm):
            self.norms.append(norm)
        return found

    def _why_stuck(self, metrics: StepMetrics) -> str:
        spread, rate = metrics.reward_std, metrics.lr
        if spread < 0.05:
            original = self.settings.head_init == "original"
            because = "the head started at almost zero (head_init=original); " if original else ""
            return (
                f"{because}rewards are almost equal (standard deviation {spread:.1g}); set head_init=scaled"
            )
        if rate < 1e-6:
            return f"the learning rate is only {rate:.1g}; raise lr"
        return (
            f"rewards differ (standard deviation {spread:.2g}), but not as the rankings do. Check that rank "
            "1 is the best in the data and that prompts belong to their images; else raise lr or lower freeze"
        )

    def _why_not_finite(self, rewards: nn.Module) -> str:
        if not all(bool(p.isfinite().all()) for p in rewards.parameters()):
            return "the weights are not finite: the init is damaged, or an earlier step spoiled them"
        if self.precision == "fp16":
            return "fp16 overflows; set mixed_precision=bf16 or no"
        return f"the learning rate {self.settings.lr:.2g} is too high; lower lr, or set clip=1"
