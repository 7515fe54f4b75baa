"""Read settings from presets, YAML files and ``key=value`` (see reward_core.runs.settings)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from reward_core.errors import InputError
from reward_core.runs import settings as reading

from ..errors import ConfigError
from .checks import check_config
from .presets import PRESETS
from .sections import RewardConfig
from .train_config import TrainConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def load_config(
    file: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    held_out: Sequence[str] = (),
) -> TrainConfig:
    """Return checked settings: a preset, overridden by a YAML file, overridden by ``key=value`` settings.

    Defaults that depend on other settings stay open (see ``check_config``), so that they follow later
    changes of these settings.

    Args:
        file: YAML file.
        preset: name of a preset.
        settings: ``key=value`` settings, such as "optimizer.lr=1e-5".
        held_out: names of held-out rewards to add.

    Raises:
        ConfigError: a preset, key or value is unknown; the message suggests the closest known one.
    """
    with _as_config_error():
        config = reading.load_settings(TrainConfig(), PRESETS, preset, file, settings)
    listed = [reward.name for reward in config.rewards if not reward.weight]
    more = [RewardConfig(name, 0.0) for name in dict.fromkeys(held_out) if name not in listed]
    config = dataclasses.replace(config, rewards=(*config.rewards, *more))
    check_config(config)
    return config


def override(config: T, values: Mapping[str, Any]) -> T:
    """Return a copy of a config with other values, nested like it; raise ConfigError for an invalid one."""
    with _as_config_error():
        return reading.override(config, values)


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise ConfigError(str(error)) from error
