"""The settings that a run was begun with: only a run with the same ones may resume it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError


def read_settings(file: Path) -> dict[str, Any]:
    """Return the settings of the run that a folder is of. Raises InputError."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{file}: damaged, so the shards beside it cannot be gone on with: {error}; give another --out"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"{file}: it holds no settings of a run, but a {type(settings).__name__}; give another --out"
        )
    return settings


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any], anew: str) -> None:
    """Raise InputError if a run was begun with other settings. ``anew`` says how to begin another one."""
    both = [(name, before.get(name), now.get(name)) for name in dict.fromkeys([*before, *now])]
    changed = [
        f"{name} was {_short(old, new)}, now {_short(new, old)}" for name, old, new in both if old != new
    ]
    if changed:
        raise InputError(
            f"{folder} holds the beginning of another run: {'; '.join(changed)}. Go on with what it "
            f"was begun with, or {anew} to begin anew"
        )


def _short(value: Any, other: Any) -> str:
    """For a message; of a dict only what is not as in the other."""
    if isinstance(value, dict):
        other = other if isinstance(other, dict) else {}
        parts = [
            f"{key} {_short(item, other.get(key))}" for key, item in value.items() if item != other.get(key)
        ]
        return "{" + ", ".join(parts) + "}"
    text = str(value)
    return text if len(text) <= 24 or os.sep in text else f"{text[:12]}..."
