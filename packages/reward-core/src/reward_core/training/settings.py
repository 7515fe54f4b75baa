"""Settings from a preset, a YAML file and ``key=value``; unknown ones are errors with the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingExtraError
from .config import PRESETS, TrainingConfig


def load_settings(
    file: str | os.PathLike[str] | None = None, preset: str | None = None, settings: Sequence[str] = ()
) -> TrainingConfig:
    """A preset, then a YAML file over it, then ``key=value`` over both; checked.

    Raises:
        InputError: an unknown preset, key or value, named with the nearest that exists.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = override(TrainingConfig(), PRESETS[preset] if preset else {})
    if file is not None:
        config = override(config, read_yaml(Path(file)), f"{file}: ")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"settings are given as key=value, got {setting!r}")
        config = override(config, {key: _parse(text)})
    return config.check()


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an InputError where there is none."""
    yaml = import_yaml()
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: must hold keys and values, holds {type(values).__name__}")
    return values


def override(config: TrainingConfig, values: dict[str, Any], where: str = "") -> TrainingConfig:
    """A copy of a config with some values, brought to their fields' types."""
    hints = typing.get_type_hints(TrainingConfig)
    known = [field.name for field in dataclasses.fields(TrainingConfig)]
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{where}no setting {key!r}; {_nearest(str(key), known)}")
        changes[key] = _convert(value, hints[key], f"{where}{key}")
    return dataclasses.replace(config, **changes)


def import_yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("train", "PyYAML") from error
    return yaml


def _parse(text: str) -> Any:
    yaml = import_yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # a path with a colon, say
        return text


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A YAML value as the field's type."""
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, (list, tuple)) else [] if value in (None, "") else [value]
        return tuple(_convert(item, str, where) for item in items)
    if hint is float and not isinstance(value, bool):  # YAML reads 1e-5 as a string
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if hint is str and value is None:
        return ""
    if hint is str and value is False:  # YAML reads the word no, as in mixed_precision=no, as false
        return "no"
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    raise InputError(f"{where} must be {kinds[hint]}, got {value!r}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
