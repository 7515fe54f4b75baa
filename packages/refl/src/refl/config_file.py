"""Settings from presets, YAML files and ``key=value``; unknown ones are errors with the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .config import TrainConfig
from .errors import ConfigError
from .presets import PRESETS

T = TypeVar("T")


def load_config(
    file: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """A preset, then a YAML file over it, then ``key=value`` settings over both; checked.

    Raises:
        ConfigError: an unknown preset, key or value, named with the nearest that exists.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; {_nearest(preset, PRESETS)}there are {', '.join(PRESETS)}")
    values: dict[str, Any] = PRESETS[preset] if preset else {}
    config = from_dict(TrainConfig, values)
    if file is not None:
        config = override(config, read_yaml(file))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, got {setting!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not a value ({error})") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        config = override(config, value)
    return config.check()


def read_yaml(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where there is none."""
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold keys and values, holds {type(values).__name__}")
    return values


def override(config: T, values: dict[str, Any], path: str = "") -> T:
    """A copy of a config with some values, nested as it is."""
    changes = {}
    hints = typing.get_type_hints(type(config))
    known = [f.name for f in dataclasses.fields(config)]
    for key, value in values.items():
        where = f"{path}{key}"
        if key not in known:
            raise ConfigError(
                f"no setting {where!r}; {_nearest(str(key), known)}there are {', '.join(known)}"
            )
        old = getattr(config, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: holds settings of its own, got {value!r}")
            changes[key] = override(old, value, f"{where}.")
        else:
            changes[key] = _convert(value, hints[key], where)
    return dataclasses.replace(config, **changes)


def from_dict(kind: type[T], values: dict[str, Any], path: str = "") -> T:
    """A config of the given class: its defaults, and these values."""
    if not isinstance(values, dict):
        raise ConfigError(f"{path.rstrip('.')}: must be keys and values, got {values!r}")
    return override(kind(), values, path)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A YAML value as the field's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(part for part in parts if part is not type(None)), where)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if dataclasses.is_dataclass(parts[0]):
            return tuple(from_dict(parts[0], item, f"{where}[{i}].") for i, item in enumerate(items))
        return tuple(_convert(item, parts[0], where) for item in items)
    if hint is float and not isinstance(value, bool):  # YAML reads 1e-5 as a string
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if hint is str and value is False:  # YAML reads the word no, as in mixed_precision: no, as false
        return "no"
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: must be {_kind(hint)}, got {value!r}")


def _kind(hint: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
