"""Detect runs that will not succeed and report the likely reason early."""

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
STUCK = 1e-3  # distance of the mean loss from log 2
WINDOW = 50  # steps
EXPLODING = 100  # times the median gradient norm


class Health:
    """Monitor losses, gradients and rewards; report each kind of problem once.

    Args:
        settings: the run's settings.
        precision: accelerate's mixed precision: "no", "bf16" or "fp16".
    """

    def __init__(self, settings: TrainingConfig, precision: str):
        self.settings, self.precision = settings, precision
        self.losses: deque[float] = deque(maxlen=min(WINDOW, settings.stuck_after))
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def check(self, run: TrainingRun[TrainingState], metrics: StepMetrics, rewards: nn.Module) -> None:
        """Warn about problems that a step shows.

        Args:
            run: the run.
            metrics: the metrics of the step.
            rewards: the module that is being trained.

        Raises:
            TrainingError: too many steps in a row had no finite loss or gradient.
        """
        state = run.state
        for kind, message in self._problems(state.step, metrics).items():
            if kind not in state.reported:
                state.reported = sorted([*state.reported, kind])
                run.warn(message)
        if not metrics.pairs:
            run.warn(f"step {state.step} was skipped: no pair of its images can be read")
        elif not metrics.finite:
            run.warn(f"step {state.step} was skipped: its loss or gradient is not finite")
        if state.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"Cannot continue training: {MAX_SKIPPED} steps in a row, up to step {state.step}, had no "
                f"finite loss or gradient. Likely reason: {self._why_not_finite(rewards)}."
            )

    def check_outcome(
        self, run: TrainingRun[TrainingState], readers: Mapping[str, GroupReader], rewards: nn.Module
    ) -> None:
        """Raise TrainingError if all steps were skipped, or no validation gave finite rewards."""
        state = run.state
        if state.skipped >= state.step > 0:
            bad = next(iter(readers["train"].skipped.items()), None)
            reason = f": images cannot be read, such as '{bad[0]}' ({bad[1]})" if bad else ""
            raise TrainingError(f"Cannot train a model: all {state.step} steps were skipped{reason}.")
        if "validation" in readers and state.best is None:
            raise TrainingError(
                "Cannot save a model: rewards were not finite in any validation. "
                f"Likely reason: {self._why_not_finite(rewards)}."
            )

    def _problems(self, step: int, metrics: StepMetrics) -> dict[str, str]:
        """Return a message for each kind of problem that the step shows."""
        problems = {}
        if math.isfinite(metrics.loss):
            self.losses.append(metrics.loss)
        full = step >= self.settings.stuck_after and len(self.losses) == self.losses.maxlen
        if full and abs(fmean(self.losses) - LOG_2) < STUCK:
            problems["stuck"] = (
                f"the loss is {fmean(self.losses):.4f} after {step} steps, which is log 2: the model cannot "
                f"distinguish good images from bad ones. Likely reason: {self._why_stuck(metrics)}"
            )
        norm = metrics.gradient_norm
        if len(self.norms) >= 20 and math.isfinite(norm):
            usual = median(self.norms)
            if norm > EXPLODING * usual > 0:
                problems["exploding"] = (
                    f"the gradient norm is {norm:.3g} at step {step}, {norm / usual:.0f} times the usual "
                    f"{usual:.3g}. Likely reason: the learning rate {metrics.lr:.2g} is too high or rises "
                    "too fast; lower lr, raise warmup_steps"
                    + ("" if self.settings.clip else ", or set clip=1")
                )
        if math.isfinite(norm):
            self.norms.append(norm)
        return problems

    def _why_stuck(self, metrics: StepMetrics) -> str:
        spread, rate = metrics.reward_std, metrics.lr
        if spread < 0.05:
            original = self.settings.head_init == "original"
            start = "the head started at almost zero (head_init=original); " if original else ""
            return f"{start}rewards are almost equal (standard deviation {spread:.1g}); set head_init=scaled"
        if rate < 1e-6:
            return f"the learning rate is only {rate:.1g}; raise lr"
        return (
            f"rewards differ (standard deviation {spread:.2g}) but do not follow the rankings. Check that "
            "rank 1 is the best and that prompts belong to their images; if so, raise lr or lower freeze"
        )

    def _why_not_finite(self, rewards: nn.Module) -> str:
        if not all(bool(p.isfinite().all()) for p in rewards.parameters()):
            return (
                "the weights are not finite: the initial weights are damaged, or an earlier step overflowed"
            )
        if self.precision == "fp16":
            return "fp16 overflows; set mixed_precision=bf16 or no"
        return f"the learning rate {self.settings.lr:.2g} is too high; lower lr, or set clip=1"
