"""Checks of the settings of a strategy."""

from __future__ import annotations

from ..errors import ConfigError
from .rollout_plans import PLANNERS
from .strategy import StrategyConfig

_SPREADS = ("pooled", "group")
_COMBINATIONS = ("sum", "zscore")
_NOISES = ("cps", "ddim", "flow_sde", "dance_sde")


def check_strategy(config: StrategyConfig, steps: int) -> None:
    """Raise ConfigError if the settings do not fit a rollout of ``steps`` steps."""
    if config.name not in PLANNERS:
        raise ConfigError(
            f"Cannot use strategy.name={config.name!r}: it must be one of {', '.join(PLANNERS)}."
        )
    if not config.needs_reward_gradient:
        _check_groups(config, steps)
    if config.name in ("refl", "alignprop", "drtune", "grpo", "srpo"):
        config.bounds(steps)
    if config.name == "srpo":
        _check_srpo(config, steps)
    if config.name in ("draft", "drtune") and not 1 <= config.k <= steps:
        raise ConfigError(f"Cannot use strategy.k={config.k}: it must be 1 to {steps} (rollout.steps).")
    if config.name == "draft-lv" and config.copies < 1:
        raise ConfigError(f"Cannot use strategy.copies={config.copies}: it must be at least 1.")


def _check_groups(config: StrategyConfig, steps: int) -> None:
    for name, allowed in (("spread", _SPREADS), ("combine", _COMBINATIONS), ("noise", _NOISES)):
        value = getattr(config, name)
        if value not in allowed:
            raise ConfigError(
                f"Cannot use strategy.{name}={value!r}: it must be one of {', '.join(allowed)}."
            )
    for name, minimum in (("group", 2), ("updates", 1), ("window", 0)):
        if getattr(config, name) < minimum:
            raise ConfigError(
                f"Cannot use strategy.{name}={getattr(config, name)}: it must be at least {minimum}."
            )
    for name in ("beta", "advantage_clip", "eta", "clip"):
        if not getattr(config, name) > 0:
            raise ConfigError(f"Cannot use strategy.{name}={getattr(config, name)}: it must be above 0.")
    if config.name == "nft":
        _check_nft(config, steps)
    else:
        _check_grpo(config, steps)


def _check_nft(config: StrategyConfig, steps: int) -> None:
    if not 1 <= config.levels <= steps:
        raise ConfigError(
            f"Cannot use strategy.levels={config.levels}: it must be 1 to {steps} (rollout.steps)."
        )
    if len(config.old_decay) != 3 or min(config.old_decay) < 0 or config.old_decay[-1] >= 1:
        raise ConfigError(
            f"Cannot use strategy.old_decay={list(config.old_decay)}: it must be three numbers (start, "
            "slope, most), at least 0, with most below 1."
        )


def _check_grpo(config: StrategyConfig, steps: int) -> None:
    if steps < 2:
        raise ConfigError(
            f"Cannot use strategy.name=grpo with rollout.steps={steps}: the last step is never random. Use "
            "at least 2."
        )
    if config.noise in ("cps", "ddim") and config.eta > 1:
        raise ConfigError(
            f"Cannot use strategy.eta={config.eta}: it must be at most 1 for strategy.noise={config.noise}."
        )
    _, last = config.bounds(steps)
    if last + config.random_steps(steps) > steps - 1:
        raise ConfigError(
            f"Cannot use strategy.window={config.window} from step {last} (strategy.last) on: random steps "
            f"must end before the last of {steps} steps (rollout.steps), which adds no noise."
        )


def _check_srpo(config: StrategyConfig, steps: int) -> None:
    first, last = config.bounds(steps)
    if first == last:
        raise ConfigError(
            f"Cannot use strategy.name=srpo from step {first} (strategy.first) to step {last} "
            f"(strategy.last) of {steps}: noise levels are drawn between them. Set strategy.last to a later "
            "step than strategy.first."
        )
    if not 0 < config.move <= 0.5:
        raise ConfigError(
            f"Cannot use strategy.move={config.move}: it must be above 0 and at most 0.5, the share of the "
            "range of noise levels."
        )
    for name, sizes in (("discount_denoise", (2,)), ("discount_inversion", (0, 2))):
        value = getattr(config, name)
        if len(value) not in sizes:
            empty = " or none" if 0 in sizes else ""
            raise ConfigError(
                f"Cannot use strategy.{name}={list(value)}: it must be two numbers{empty}, at the noisiest "
                "and at the cleanest level."
            )
    for name in ("positive_words", "negative_words"):
        if not getattr(config, name):
            raise ConfigError(
                f'Cannot use strategy.{name}=[]: it must have at least one entry. Use [""] for no words.'
            )
