"""Strategies as data: gradient steps, where a rollout stops, source of x0.

| strategy   | gradient steps                        | stop         | x0 from      | source |
|---|---|---|---|---|
| refl       | one random late step                  | at that step | prediction   | Xu et al. 2023 |
| draft      | the last k                            | at the end   | last latents | Clark et al. 2024 |
| draft-lv   | the last, n more after re-noising     | at the end   | last latents | Clark et al. 2024 |
| alignprop  | all from a random step on             | at the end   | last latents | Prabhudesai et al. 2023 |
| drtune     | k evenly spaced, input detached       | at random    | prediction   | Wu et al. 2024 |
| nft        | none: trained on re-noised results    | at the end   | last latents | Zheng et al. 2025 |

nft (DiffusionNFT) needs no gradient of the reward; see refl.nft_objective.
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
        with_gradient = ", ".join(map(str, self.gradient)) or "none"
        if len(self.gradient) > 2 and self.gradient == tuple(range(self.gradient[0], self.stop + 1)):
            with_gradient = f"{self.gradient[0]}-{self.stop}"
        parts = [f"steps 0-{self.stop}", f"gradient at {with_gradient}", f"x0 from the {self.read}"]
        if self.detach_input:
            parts.append("denoiser input detached")
        if self.copies:
            parts.append(f"{self.copies} re-noised copies")
        return ", ".join(parts)


@dataclass(frozen=True)
class StrategyConfig:
    """How the model is trained: which denoising steps carry gradient, or without gradient of the reward.

    Attributes:
        name: refl, draft, draft-lv, alignprop or drtune, which need the reward's gradient; nft, which needs
            only its values. The settings from ``group`` on are used by nft alone.
        first: index of the earliest step that may be drawn at random: the gradient step (refl), the first
            gradient step (alignprop) or the stop (drtune); unused by the others. Negative values count
            from the end. None: 0 for alignprop, the start of the last quarter for refl and drtune.
        last: index of the latest step that may be drawn; negative values count from the end. None: the
            last step.
        k: number of gradient steps, from 1 to ``rollout.steps``: the last ones (draft) or evenly spaced
            ones (drtune); unused by the others.
        copies: number of re-noised copies for draft-lv, at least 1; unused by the others.
        group: images per prompt, at least 2, compared with each other. The images of an optimizer step
            (``run.batch_size * run.accumulation * processes``) must be a multiple of it.
        levels: noise levels at which each image is trained per optimizer step, from 1 to ``rollout.steps``.
        beta: share of the trained model in the two models that the loss compares, above 0. Smaller values
            learn faster and are less stable.
        advantage_clip: advantages are clipped to plus or minus this value, above 0.
        spread: what a reward's distance to its group's mean is divided by: the standard deviation of all
            images of the step (pooled) or of the group (group). Unused with combine=zscore.
        combine: how several rewards become one advantage: their weighted sum (sum), or the weighted sum of
            each reward's z-scores within the group (zscore), which does not depend on their scales.
        updates: optimizer steps per set of images; later ones use the same images at other noise levels.
        guided_loss: use ``rollout.guidance_scale`` in the loss too, for trained and old weights. Without
            it, images are generated with guidance and trained on without, at half the cost.
        shared_noise: train all images of a prompt at the same noise levels with the same noise.
        old_decay: (start, slope, most): after n optimizer steps, the weights that generate the images keep
            ``min(slope * max(n - start, 0), most)`` of themselves and take the rest from the trained ones.
    """

    name: str = "refl"
    first: int | None = None
    last: int | None = None
    k: int = 1
    copies: int = 2
    group: int = 8
    levels: int = 2
    beta: float = 1.0
    advantage_clip: float = 5.0
    spread: str = "pooled"
    combine: str = "sum"
    updates: int = 1
    guided_loss: bool = True
    shared_noise: bool = True
    old_decay: tuple[float, ...] = (0.0, 0.001, 0.5)

    @property
    def needs_reward_gradient(self) -> bool:
        """Whether trained rewards must be differentiable."""
        return self.name != "nft"

    def keep_old(self, steps: int) -> float:
        """Return the share that the old weights of nft keep of themselves after ``steps`` optimizer steps."""
        start, slope, most = self.old_decay
        return min(slope * max(steps - start, 0.0), most)

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
        if self.name not in STRATEGIES:
            raise ConfigError(
                f"Cannot use strategy.name={self.name!r}: it must be one of {', '.join(STRATEGIES)}."
            )
        if self.name == "nft":
            self._check_nft(steps)
        if self.name in ("refl", "alignprop", "drtune"):
            self.bounds(steps)
        if self.name in ("draft", "drtune") and not 1 <= self.k <= steps:
            raise ConfigError(f"Cannot use strategy.k={self.k}: it must be 1 to {steps} (rollout.steps).")
        if self.name == "draft-lv" and self.copies < 1:
            raise ConfigError(f"Cannot use strategy.copies={self.copies}: it must be at least 1.")

    def _check_nft(self, steps: int) -> None:
        for name, allowed in (("spread", SPREADS), ("combine", COMBINATIONS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(
                    f"Cannot use strategy.{name}={value!r}: it must be one of {', '.join(allowed)}."
                )
        for name, minimum in (("group", 2), ("updates", 1)):
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"Cannot use strategy.{name}={getattr(self, name)}: it must be at least {minimum}."
                )
        for name in ("beta", "advantage_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Cannot use strategy.{name}={getattr(self, name)}: it must be above 0.")
        if not 1 <= self.levels <= steps:
            raise ConfigError(
                f"Cannot use strategy.levels={self.levels}: it must be 1 to {steps} (rollout.steps)."
            )
        if len(self.old_decay) != 3 or min(self.old_decay) < 0 or self.old_decay[-1] >= 1:
            raise ConfigError(
                f"Cannot use strategy.old_decay={list(self.old_decay)}: it must be three numbers (start, "
                "slope, most), at least 0, with most below 1."
            )

    def plan(self, steps: int, rng: random.Random) -> RolloutPlan:
        """Draw the plan of one rollout of ``steps`` steps.

        Equal ``rng`` states give equal plans, so every rank draws the same.
        """
        self.check(steps)
        if self.name == "nft":
            return whole_rollout(steps)
        return PLANNERS[self.name](self, steps, rng)


def whole_rollout(steps: int) -> RolloutPlan:
    """Return the plan of a rollout of ``steps`` steps without gradient."""
    return RolloutPlan(steps - 1, (), read="latents")


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
STRATEGIES = (*PLANNERS, "nft")
SPREADS = ("pooled", "group")
COMBINATIONS = ("sum", "zscore")
