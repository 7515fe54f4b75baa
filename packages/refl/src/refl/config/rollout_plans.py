"""Strategies as data: gradient steps, where a rollout stops, source of x0.

| strategy   | gradient steps                        | stop         | x0 from      | source |
|---|---|---|---|---|
| refl       | one random late step                  | at that step | prediction   | Xu et al. 2023 |
| draft      | the last k                            | at the end   | last latents | Clark et al. 2024 |
| draft-lv   | the last, n more after re-noising     | at the end   | last latents | Clark et al. 2024 |
| alignprop  | all from a random step on             | at the end   | last latents | Prabhudesai et al. 2023 |
| drtune     | k evenly spaced, input detached       | at random    | prediction   | Wu et al. 2024 |
| srpo       | none: one step at re-noised results   | at the end   | known noise  | Shen et al. 2025 |
| nft        | none: trained on re-noised results    | at the end   | last latents | Zheng et al. 2025 |
| grpo       | none: trained on its random steps     | at the end   | last latents | Liu et al. 2025 |

srpo compares rewards of two prompts; see srpo_objective. nft (DiffusionNFT) and grpo (Flow-GRPO) need
no gradient of the reward; see nft_objective and grpo_objective, all in refl.objectives.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ..denoising.rollout_plan import RolloutPlan, whole_rollout
from .strategy import StrategyConfig


def plan_rollout(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    """Draw the plan of one rollout of ``steps`` steps.

    Equal ``rng`` states give equal plans, so every rank draws the same.

    Args:
        config: checked settings of the strategy.
        steps: denoising steps per image.
        rng: source of the random steps.
    """
    return PLANNERS[config.name](config, steps, rng)


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


def _whole(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    return whole_rollout(steps)


def _grpo(config: StrategyConfig, steps: int, rng: random.Random) -> RolloutPlan:
    start = rng.randint(*config.bounds(steps))
    return replace(whole_rollout(steps), random=tuple(range(start, start + config.random_steps(steps))))


PLANNERS = {
    "refl": _refl,
    "draft": _draft,
    "draft-lv": _draft_lv,
    "alignprop": _alignprop,
    "drtune": _drtune,
    "srpo": _whole,
    "nft": _whole,
    "grpo": _grpo,
}
