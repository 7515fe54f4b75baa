"""Strategies as data: which denoising steps carry gradient, where a rollout stops, how x0 is read.

| strategy   | gradient                     | stops            | x0 from      | source |
|---|---|---|---|---|
| refl       | one late step, at random     | at that step     | prediction   | Xu et al. 2023 |
| draft      | the last K                   | at the end       | last latents | Clark et al. 2024 |
| draft-lv   | the last, and n more after noise anew | at the end | last latents | Clark et al. 2024 |
| alignprop  | all from a random m on       | at the end       | last latents | Prabhudesai et al. 2023 |
| drtune     | K evenly spaced, input cut off | at random, late | prediction  | Wu et al. 2024 |
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class RolloutPlan:
    """One rollout.

    Attributes:
        stop: index of the last denoising step that is computed.
        gradient: indices of the steps whose denoiser carries gradient.
        detach_input: whether gradient is kept from passing through the denoiser's input.
        read: "prediction" (x0 as predicted at ``stop``) or "latents" (what ``stop`` steps to).
        copies: how many times the result is noised anew to the last step's level and denoised with
            gradient; 0 for a plain rollout.
    """

    stop: int
    gradient: tuple[int, ...]
    detach_input: bool = False
    read: str = "prediction"
    copies: int = 0

    def cost(self) -> tuple[int, int]:
        """(forward passes without gradient, passes with: each forward, recomputation and backward)."""
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
            parts.append(f"{self.copies} copies noised anew")
        return ", ".join(parts)


@dataclass(frozen=True)
class StrategyConfig:
    """Which steps of a rollout train the model.

    Attributes:
        name: refl, draft, draft-lv, alignprop or drtune.
        first: refl: the earliest step that may carry the gradient; alignprop: the earliest m; drtune: the
            earliest stop. Negative numbers count from the end. None: the strategy's own (refl: the last
            quarter of the steps; alignprop: 0; drtune: the last quarter).
        last: the latest such step; None: the last of all.
        k: draft: how many last steps; drtune: how many evenly spaced steps carry gradient.
        copies: draft-lv: how many times the result is noised anew.
    """

    name: str = "refl"
    first: int | None = None
    last: int | None = None
    k: int = 1
    copies: int = 2

    def bounds(self, steps: int) -> tuple[int, int]:
        """(first, last) as indices of a rollout of that many steps."""
        first = self.first
        if first is None:
            first = 0 if self.name == "alignprop" else (3 * steps) // 4
        last = steps - 1 if self.last is None else self.last
        first, last = (n + steps if n < 0 else n for n in (first, last))
        if not 0 <= first <= last < steps:
            raise ConfigError(
                f"strategy: first {self.first} and last {self.last} must lie within {steps} steps, in order"
            )
        return first, last

    def check(self, steps: int) -> None:
        """Raise ConfigError where the strategy cannot be carried out in that many steps."""
        if self.name not in PLANNERS:
            raise ConfigError(f"strategy.name: unknown {self.name!r}; one of {', '.join(PLANNERS)}")
        if self.name in ("refl", "alignprop", "drtune"):
            self.bounds(steps)
        if self.name in ("draft", "drtune") and not 1 <= self.k <= steps:
            raise ConfigError(f"strategy.k: must be 1 to {steps} (rollout.steps), got {self.k}")
        if self.name == "draft-lv" and self.copies < 1:
            raise ConfigError(f"strategy.copies: must be at least 1, got {self.copies}")

    def plan(self, steps: int, rng: random.Random) -> RolloutPlan:
        """Draw one rollout of ``steps`` steps. The same ``rng`` state gives the same plan on every rank."""
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
    # Evenly spaced and ending at the stop: of the step that is read, the gradient is the most direct.
    gradient = tuple(stop - round(j * (stop + 1) / count) for j in reversed(range(count)))
    return RolloutPlan(stop, gradient, detach_input=True)


PLANNERS = {
    "refl": _refl,
    "draft": _draft,
    "draft-lv": _draft_lv,
    "alignprop": _alignprop,
    "drtune": _drtune,
}
