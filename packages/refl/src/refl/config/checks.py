"""Checks of a run's settings, and the defaults that depend on other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import ConfigError
from .strategy_checks import check_strategy
from .train_config import TrainConfig

CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
_SCHEDULES = (*CONSTANT_SCHEDULES, "linear", "cosine")
_PHIS = ("relu", "linear", "clipped")
_ENSEMBLES = ("sum", "min", "lower")
_DISTANCES = ("x0", "epsilon", "v")
_REWARD_INPUTS = ("images", "pixels")
_HALF_DTYPES = ("bf16", "fp16")
_GRADIENT_GRAPHS = ("no", "rewards", "forward", "denoiser", "all")


def check_config(config: TrainConfig) -> TrainConfig:
    """Return the settings with the defaults that depend on other settings.

    These are phi and scale of the rewards, and the dtypes of decoding and of the copy for steps without
    gradient.

    Raises:
        ConfigError: a setting is invalid.
    """
    config = _with_defaults(config)
    check_strategy(config.strategy, config.rollout.steps)
    _check_numbers(config)
    _check_choices(config)
    _check_graphs(config)
    _check_rewards(config)
    _check_stop_rules(config)
    return config


def _with_defaults(config: TrainConfig) -> TrainConfig:
    phi, scale = ("relu", 1e-3) if config.strategy.needs_reward_gradient else ("linear", 1.0)
    rewards = tuple(dataclasses.replace(reward, phi=reward.phi or phi) for reward in config.rewards)
    if config.loss.reward_scale is not None:
        scale = config.loss.reward_scale
    precision = config.run.mixed_precision
    half = precision if precision in _HALF_DTYPES else ""
    graphs = config.rollout.gradient_graphs
    rollout = dataclasses.replace(
        config.rollout,
        no_grad_dtype=_dtype(config.rollout.no_grad_dtype, "" if config.model.compile else half),
        decode_dtype=_dtype(config.rollout.decode_dtype, half),
        gradient_graphs="no" if graphs == "" else graphs,
    )
    loss = dataclasses.replace(config.loss, reward_scale=scale)
    return dataclasses.replace(config, rewards=rewards, loss=loss, rollout=rollout)


def _dtype(chosen: str | None, default: str) -> str:
    if chosen is None:
        return default
    return "" if chosen == "no" else chosen  # YAML reads no and off as false


def _check_numbers(config: TrainConfig) -> None:
    for path, minimum in (
        ("rollout.steps", 1),
        ("rollout.height", 0),
        ("rollout.width", 0),
        ("model.lora_rank", 0),
        ("run.steps", 0),
        ("run.batch_size", 1),
        ("run.accumulation", 1),
        ("run.checkpoints", 1),
        ("run.checkpoint_every", 0),
        ("validation.every", 0),
        ("validation.batch_size", 0),
        ("validation.steps", 0),
        ("validation.stop_diversity", 0),
        ("validation.prompts", 0),
        ("validation.seeds", 1),
        ("validation.stop_patience", 1),
        ("optimizer.lr", 0),
        ("optimizer.warmup_steps", 0),
        ("optimizer.max_grad_norm", 0),
        ("loss.distance_weight", 0),
        ("loss.ensemble_k", 0),
        ("loss.pretraining_batch_size", 1),
    ):
        value = _value(config, path)
        if not value >= minimum:
            raise ConfigError(f"Cannot use {path}={value}: it must be at least {minimum}.")
    if not 0 <= config.optimizer.ema_decay < 1:
        raise ConfigError(
            f"Cannot use optimizer.ema_decay={config.optimizer.ema_decay}: it must be in [0, 1)."
        )


def _check_choices(config: TrainConfig) -> None:
    rollout, rewards = config.rollout, config.rewards
    _check_choice("run.mixed_precision", config.run.mixed_precision, ("no", *_HALF_DTYPES))
    _check_choice("rollout.no_grad_dtype", rollout.no_grad_dtype or "no", ("no", "auto", *_HALF_DTYPES))
    _check_choice("rollout.decode_dtype", rollout.decode_dtype or "no", ("no", *_HALF_DTYPES))
    _check_choice("rollout.gradient_graphs", rollout.gradient_graphs or "no", _GRADIENT_GRAPHS)
    _check_choice("loss.distance", config.loss.distance, _DISTANCES)
    _check_choice("loss.ensemble", config.loss.ensemble, _ENSEMBLES)
    _check_choice("optimizer.schedule", config.optimizer.schedule, _SCHEDULES)
    for name, allowed in (("phi", _PHIS), ("input", _REWARD_INPUTS), ("dtype", _HALF_DTYPES)):
        for reward in rewards:
            _check_choice(f"rewards.{name}", getattr(reward, name), ("", *allowed))


def _check_choice(path: str, choice: str, allowed: Sequence[str]) -> None:
    if choice not in allowed:
        choices = ", ".join(name or '""' for name in allowed)
        raise ConfigError(f"Cannot use {path}={choice!r}: it must be one of {choices}.")


def _check_graphs(config: TrainConfig) -> None:
    graphs = config.rollout.gradient_graphs
    if graphs not in (None, "no"):
        if not config.strategy.needs_reward_gradient:
            raise ConfigError(
                "Cannot use rollout.gradient_graphs: it has no effect with strategy.name="
                f"{config.strategy.name}. Remove it."
            )
        for path, required in (("rollout.gradient_checkpointing", True), ("model.compile", False)):
            if graphs != "rewards" and _value(config, path) != required:
                raise ConfigError(
                    f"Cannot use rollout.gradient_graphs with {path}={not required}: recorded steps "
                    f"recompute activations and are not compiled. Set {path}={required}."
                )
    moved = config.model.channels_last and config.optimizer.eight_bit and not config.model.lora_rank
    if graphs in ("denoiser", "all") and moved:
        raise ConfigError(
            f"Cannot use rollout.gradient_graphs={graphs} with model.channels_last and "
            "optimizer.eight_bit: bitsandbytes moves channels-last weights, which graphs read. Remove "
            "one of them."
        )
    if graphs == "forward" and not config.rollout.no_grad_dtype:
        raise ConfigError(
            "Cannot use rollout.gradient_graphs=forward: the copy for steps without gradient computes it. "
            "Set rollout.no_grad_dtype."
        )
    for name in ("no_grad_compile", "no_grad_graphs"):
        if getattr(config.rollout, name) and not config.rollout.no_grad_dtype:
            raise ConfigError(
                f"Cannot use rollout.{name}: it has no effect without a copy. Set rollout.no_grad_dtype."
            )


def _check_rewards(config: TrainConfig) -> None:
    names = [reward.name for reward in config.rewards]
    if not any(reward.weight for reward in config.rewards):
        raise ConfigError("Cannot train on the rewards: at least one must have a weight other than 0.")
    if len(set(names)) < len(names):
        raise ConfigError(f"Cannot use the rewards {', '.join(names)}: their names must be unique.")


def _check_stop_rules(config: TrainConfig) -> None:
    validation = config.validation
    names = [reward.name for reward in config.rewards]
    stop = validation.stop_reward
    if stop and stop not in names:
        raise ConfigError(
            f"Cannot use validation.stop_reward={stop!r}: it must be one of {', '.join(names)}."
        )
    if validation.keep_best and not stop:
        raise ConfigError(
            "Cannot use validation.keep_best: it needs a reward to compare by. Set validation.stop_reward."
        )
    stop_rule = "stop_diversity" if validation.stop_diversity else "stop_reward" if stop else ""
    if stop_rule and not (validation.prompts or validation.prompts_file):
        raise ConfigError(
            f"Cannot use validation.{stop_rule}: it has no effect without validation prompts. Set "
            "validation.prompts to at least 1."
        )
    if validation.stop_diversity and validation.seeds < 2:
        raise ConfigError(
            "Cannot use validation.stop_diversity: it needs at least 2 seeds. Set validation.seeds."
        )


def _value(config: TrainConfig, path: str):
    section, name = path.split(".")
    return getattr(getattr(config, section), name)
