"""Scorers of other packages: entry points of the group "reward_core.scorers".

The name of an entry point is the scorer's name, and its value is the "module:OBJECT" of a `ModelSpec`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .model_spec import ModelSpec

logger = logging.getLogger(__name__)

GROUP = "reward_core.scorers"


def plugin_names(built_in: Collection[str]) -> list[str]:
    """Return the names of the plug-ins' scorers without importing the plug-ins.

    Args:
        built_in: names of this package's scorers, which win with a warning.
    """
    taken = {name.lower() for name in built_in}
    names = []
    for name, entry in _entries().items():
        if name.lower() in taken:
            _warn_once(f"ignoring the scorer {name!r} of {_package(entry)}: reward-core has one of this name")
        else:
            names.append(name)
    return names


@cache
def plugin_spec(name: str) -> ModelSpec | None:
    """Return the specification of a plug-in's scorer; None with one warning if the plug-in is broken."""
    entry = _entries()[name]
    try:
        spec = entry.load()
    except Exception as error:  # a plug-in can raise anything
        _warn_once(f"ignoring the scorer {name!r} of {_package(entry)}: {type(error).__name__}: {error}")
        return None
    if not isinstance(spec, ModelSpec):
        kind = type(spec).__name__
        _warn_once(
            f"ignoring the scorer {name!r} of {_package(entry)}: {entry.value} is {kind}, not ModelSpec"
        )
        return None
    return spec


def _entries() -> dict[str, EntryPoint]:
    """Return the entry points by name; of two with the same name, the first."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        first = found.setdefault(entry.name, entry)
        if first.value != entry.value:
            _warn_once(
                f"ignoring the scorer {entry.name!r} of {_package(entry)}: {_package(first)} has one of this "
                "name"
            )
    return found


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name!r}" if entry.dist is not None else "an unknown package"


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
