"""The stored settings of a run; only a run with the same settings may resume it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.atomic_write import atomic_write

REPLACED = "replaced"  # key of the checksum of the output file that a run replaces
MODEL_NAME = "model_name"  # key of the name of a single model


def write_settings(file: Path, settings: dict[str, Any], replaced: str | None) -> None:
    """Write a run's file.

    Args:
        file: the file.
        settings: what the scores depend on.
        replaced: the checksum of the output file that the run replaces; None if there is none.
    """
    with atomic_write(file) as temporary:
        text = json.dumps({**settings, REPLACED: replaced}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_settings(file: Path) -> tuple[dict[str, Any], str | None]:
    """Return the settings and the checksum stored in a run's file; raise InputError if it is damaged."""
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
    replaced = settings.pop(REPLACED, None)
    return settings, replaced


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return how the settings of an earlier run differ from those of this one; "" if they are the same.

    The name of a model is shown, but not compared: the same files may be in a renamed folder.
    """
    before, now = _with_model_name(before), _with_model_name(now)
    both = [(name, before.get(name), now.get(name)) for name in dict.fromkeys([*before, *now])]
    changed = [
        f"{name} was {_short(old, new)}, now {_short(new, old)}" for name, old, new in both if old != new
    ]
    return "; ".join(changed)


def _with_model_name(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without MODEL_NAME, which becomes a part of the text of a single model's digest."""
    others = {key: value for key, value in settings.items() if key != MODEL_NAME}
    digest, name = settings.get("model"), settings.get(MODEL_NAME)
    return {**others, "model": Digest(digest, name)} if isinstance(digest, str) else others


class Digest(str):
    """A digest with the name of what it is the digest of; equal to the same digest of another name."""

    name: str | None

    def __new__(cls, digest: str, name: str | None) -> Digest:
        text = super().__new__(cls, digest)
        text.name = name
        return text


def _short(value: Any, other: Any) -> str:
    """Shorten a value for a message; of a dict show only the items that differ from the other."""
    if isinstance(value, dict):
        other = other if isinstance(other, dict) else {}
        parts = [
            f"{key} {_short(item, other.get(key))}" for key, item in value.items() if item != other.get(key)
        ]
        return "{" + ", ".join(parts) + "}"
    text = str(value)
    if isinstance(value, Digest) and value.name:
        return f"{value.name} ({text[:12]}...)"
    return text if len(text) <= 24 or os.sep in text else f"{text[:12]}..."
