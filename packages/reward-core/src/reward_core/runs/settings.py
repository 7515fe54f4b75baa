"""Settings (nested dataclasses) from presets, YAML files and ``key=value``.

An unknown name is an error that suggests the nearest known one. Values are converted to the type of their
field.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def load_settings(
    start: T,
    presets: Mapping[str, dict[str, Any]],
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> T:
    """Return settings from a preset, a YAML file, ``given`` and ``settings``.

    Later sources override earlier ones, in this order.

    Args:
        start: a dataclass with the defaults.
        presets: values of each preset by name, nested like the settings.
        preset: name of the preset to use.
        file: YAML file with values.
        settings: "key=value" strings. A dot leads to nested settings, as in "run.steps=10". Values are YAML,
            but strings, such as paths, are used as typed unless they are in quotes.
        given: values by key.

    Raises:
        InputError: an unknown preset, key or value, or an invalid YAML file.
    """
    if preset is not None and preset not in presets:
        raise InputError(f"Cannot use the preset {preset!r}: unknown. {_nearest(preset, presets)}")
    config = override(start, presets[preset] if preset else {})
    if file is not None:
        config = override(config, read_yaml(file), source=f" in '{os.fspath(file)}'")
    config = override(config, given or {})
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"Cannot use the setting {setting!r}: it must have the form key=value.")
        value = _parsed(text)
        if (
            _is_text(config, key.split("."))
            and value is not None
            and not text.lstrip().startswith(("'", '"'))
        ):
            value = text  # a folder may be named on, 010 or 2024-01-01
        for part in reversed(key.split(".")):
            value = {part: value}
        config = override(config, value)
    return config


def read_yaml(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: the file cannot be read, is not YAML or does not contain a mapping.
    """
    yaml = import_yaml()
    name = f"'{os.fspath(file)}'"
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read settings from {name}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read settings from {name}: it is not a YAML file ({error}).") from error
    if not isinstance(values, dict):
        problem = f"expected keys and values, got {type(values).__name__}"
        raise InputError(f"Cannot read settings from {name}: {problem}.")
    return values


def override(config: T, values: Mapping[str, Any], where: str = "", root: Any = None, source: str = "") -> T:
    """Return a copy of a dataclass with some values replaced.

    Args:
        config: the dataclass.
        values: new values by name, nested like the dataclass.
        where: prefix of names in errors, such as "run.".
        root: the settings that hold ``config``; names for errors come from all its sections.
        source: the origin of the values in errors, such as " in 'run.yaml'".

    Raises:
        InputError: an unknown name or an invalid value.
    """
    hints = typing.get_type_hints(type(config))
    known = [field.name for field in dataclasses.fields(config)]
    changes = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in known:
            advice = _nearest_setting(str(key), config, root)
            raise InputError(f"Cannot use the setting {name!r}{source}: unknown. {advice}")
        old = getattr(config, key)
        if not dataclasses.is_dataclass(old) or isinstance(old, type):
            changes[key] = _converted(value, hints[key], name, source)
        elif isinstance(value, Mapping):
            changes[key] = override(old, value, f"{name}.", root or config, source)
        else:
            raise InputError(f"Cannot use {name}={value!r}{source}: expected nested settings.")
    return dataclasses.replace(config, **changes)


def yaml_text(content: Any, **options: Any) -> str:
    """Return content as YAML. Letters are written as they are, unless some characters are not printable."""
    yaml = import_yaml()
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, **options)
    if text.replace("\n", "").isprintable():
        return text
    return yaml.safe_dump(content, sort_keys=False, **options)


def import_yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("train", "PyYAML") from error
    return yaml


def _parsed(text: str) -> Any:
    yaml = import_yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # a path with a colon, say
        return text


def _is_text(config: Any, path: Sequence[str]) -> bool:
    """Return whether a setting is a string or an optional string."""
    for part in path[:-1]:
        config = getattr(config, part, None)
    if not dataclasses.is_dataclass(config):
        return False
    hint = typing.get_type_hints(type(config)).get(path[-1])
    return {hint, *typing.get_args(hint)} - {types.NoneType} <= {str, str | None}


def _converted(value: Any, hint: Any, where: str, source: str) -> Any:
    """Return a YAML value converted to the type of its field."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _converted(value, next(part for part in parts if part is not type(None)), where, source)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [] if value in (None, "") else [value]
        return tuple(_item(item, parts[0], f"{where}[{i}]", source) for i, item in enumerate(items))
    if hint is float and not isinstance(value, bool):  # YAML reads 1e-5 as a string
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if hint is str and value is None:
        return ""
    if hint is str and value is False:  # YAML reads no (as in mixed_precision: no) as false
        return "no"
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    kinds = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    raise InputError(f"Cannot use {where}={value!r}{source}: it must be {kinds[hint]}.")


def _item(item: Any, kind: Any, where: str, source: str) -> Any:
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return _converted(item, kind, where, source)
    if not isinstance(item, Mapping):
        raise InputError(f"Cannot use {where}={item!r}{source}: it must be keys and values.")
    return override(kind(), item, f"{where}.", source=source)


def _nearest_setting(key: str, section: Any, root: Any) -> str:
    """Return advice with the nearest names: those of the section, or of all sections if these are nearer."""
    root = section if root is None else root
    names = {path: path.rpartition(".")[2] for path in _paths(root)}
    prefix = next((f"{path}." for path in names if _value(root, path) is section), "")
    ratios = {path: difflib.SequenceMatcher(None, key, name).ratio() for path, name in names.items()}
    best = max(ratios.values())
    nearest = [path for path, ratio in ratios.items() if ratio == best]
    if best < 0.5:
        return f"Known settings: {', '.join(field.name for field in dataclasses.fields(section))}."
    inside = [path for path in nearest if prefix and path.startswith(prefix)]
    return f"Did you mean {' or '.join(map(repr, inside or nearest))}?"


def _paths(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings and sections."""
    paths = []
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        paths.append(path)
        if dataclasses.is_dataclass(value):
            paths += _paths(value, f"{path}.")
    return paths


def _value(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part)
    return config


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known presets: {', '.join(known)}."
