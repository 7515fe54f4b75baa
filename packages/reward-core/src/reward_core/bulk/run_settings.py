"""The stored settings of a run; only a run with the same settings may resume it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError


def read_settings(file: Path) -> dict[str, Any]:
    """Return the settings stored in a run's file; raise InputError if it is damaged."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"Cannot resume from '{file}': it is damaged ({error}). Use another --out."
        ) from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise InputError(
            f"Cannot resume from '{file}': it holds a {kind} instead of a run's settings. Use another --out."
        )
    return settings


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how the settings of an earlier run differ from those of this one; "" if they are the same."""
    both = [(name, before.get(name), now.get(name)) for name in dict.fromkeys([*before, *now])]
    changed = [
        f"{name} was {_short(old, new)}, now {_short(new, old)}" for name, old, new in both if old != new
    ]
    return "; ".join(changed)


def _short(value: Any, other: Any) -> str:
    """Shorten a value for a message; of a dict show only the items that differ from the other."""
    if isinstance(value, dict):
        other = other if isinstance(other, dict) else {}
        parts = [
            f"{key} {_short(item, other.get(key))}" for key, item in value.items() if item != other.get(key)
        ]
        return "{" + ", ".join(parts) + "}"
    text = str(value)
    return text if len(text) <= 24 or os.sep in text else f"{text[:12]}..."
