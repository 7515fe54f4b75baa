"""Strategies as data: gradient steps, where a rollout stops, source of x0.

| strategy   | gradient steps                        | stop         | x0 from      | source |
|---|---|---|---|---|
| refl       | one random late step                  | at that step | prediction   | Xu et al. 2023 |
| draft      | the last k                            | at the end   | last latents | Clark et al. 2024 |
| draft-lv   | the last, n more after re-noising     | at the end   | last latents | Clark et al. 2024 |
| alignprop  | all from a random step on             | at the end   | last latents | Prabhudesai et al. 2023 |
| drtune     | k evenly spaced, input detached       | at random    | prediction   | Wu et al. 2024 |
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class RolloutPlan:
    """The plan of one rollout.

    Attributes:
        stop: index of the last denoising step that is computed.
        gradient: indices of the steps at which the denoiser carries gradient.
        detach_input: detach the denoiser's input, so that no gradient passes through it.
        read: where x0 comes from: "prediction" (x0 predicted at ``stop``) or "latents" (the latents
            after ``stop``).
        copies: number of times the result is re-noised to the level of the last step and denoised with
            gradient; 0 for a plain rollout.
    """

    stop: int
    gradient: tuple[int, ...]
    detach_input: bool = False
    read: str = "prediction"
    copies: int = 0

    def cost(self) -> tuple[int, int]:
        """Return the denoiser passes without gradient and those with gradient."""
        with_gradient = len(self.gradient) + self.copies
        return self.stop + 1 - len(self.gradient), with_gradient

    def __str__(self) -> str:
        first, with_gradient = self.gradient[0], ", ".join(map(str, self.gradient))
        if self.gradient == tuple(range(first, self.stop + 1)) and len(self.gradient) > 2:
            with_gradient = f"{first}-{self.stop}"
        parts = [f"steps 0-{self.stop}", f"gradient at {with_gradient}", f"x0 from the {self.read}"]
        if self.detach_input:
            parts.append("denoiser input detached")
        if self.copies:
            parts.append(f"{self.copies} re-noised copies")
        return ", ".join(parts)


@dataclass(frozen=True)
class StrategyConfig:
    """Which denoising steps of a rollout train the model.

    Attributes:
        name: refl, draft, draft-lv, alignprop or drtune.
        first: index of the earliest step that may be drawn at random: the gradient step (refl), the first
            gradient step (alignprop) or the stop (drtune); unused by the others. Negative values count
            from the end. None: 0 for alignprop, the start of the last quarter for refl and drtune.
        last: index of the latest step that may be drawn; negative values count from the end. None: the
            last step.
        k: number of gradient steps, from 1 to ``rollout.steps``: the last ones (draft) or evenly spaced
            ones (drtune); unused by the others.
        copies: number of re-noised copies for draft-lv, at least 1; unused by the others.
    """

    name: str = "refl"
    first: int | None = None
    last: int | None = None
    k: int = 1
    copies: int = 2

    def bounds(self, steps: int) -> tuple[int, int]:
        """Return ``first`` and ``last`` as indices into a rollout of ``steps``."""
        first = self.first
        if first is None:
            first = 0 if self.name == "alignprop" else (3 * steps) // 4
        last = steps - 1 if self.last is None else self.last
        first, last = (n + steps if n < 0 else n for n in (first, last))
        if not 0 <= first <= last < steps:
            raise ConfigError(
                f"Cannot use strategy.first={self.first} and strategy.last={self.last}: they must satisfy "
                f"0 <= first <= last < {steps} (rollout.steps)."
            )
        return first, last

    def check(self, steps: int) -> None:
        """Raise ConfigError if the settings do not fit a rollout of ``steps`` steps."""
        if self.name not in PLANNERS:
            raise ConfigError(
                f"Cannot use strategy.name={self.name!r}: it must be one of {', '.join(PLANNERS)}."
            )
        if self.name in ("refl", "alignprop", "drtune"):
            self.bounds(steps)
        if self.name in ("draft", "drtune") and not 1 <= self.k <= steps:
            raise ConfigError(f"Cannot use strategy.k={self.k}: it must be 1 to {steps} (rollout.steps).")
        if self.name == "draft-lv" and self.copies < 1:
            raise ConfigError(f"Cannot use strategy.copies={self.copies}: it must be at least 1.")

    def plan(self, steps: int, rng: random.Random) -> RolloutPlan:
        """Draw the plan of one rollout of ``steps`` steps.

        Equal ``rng`` states give equal plans, so every rank draws the same.
        """
        self.check(steps)
        return PLANNERS[self.name](self, steps, rng)


def _refl(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    stop = rng.randint(*config.bounds(steps))
    return RolloutPlan(stop, (stop,))


def _draft(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    return RolloutPlan(steps - 1, tuple(range(steps - config.k, steps)), read="latents")


def _draft_lv(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    return RolloutPlan(steps - 1, (steps - 1,), read="latents", copies=config.copies)


def _alignprop(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    m = rng.randint(*config.bounds(steps))
    return RolloutPlan(steps - 1, tuple(range(m, steps)), read="latents")


def _drtune(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    stop = rng.randint(*config.bounds(steps))
    count = min(config.k, stop + 1)
    # Evenly spaced and ending at the stop, whose gradient reaches the reward most directly.
    gradient = tuple(stop - round(j * (stop + 1) / count) for j in reversed(range(count)))
    return RolloutPlan(stop, gradient, detach_input=True)


PLANNERS = {
    "refl": _refl,
    "draft": _draft,
    "draft-lv": _draft_lv,
    "alignprop": _alignprop,
    "drtune": _drtune,
}
