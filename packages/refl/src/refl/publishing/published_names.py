"""Names in published files: hub ids stay, and paths of this machine become names of files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from reward_core.hub.file_specs import is_repo_id

PATH_SETTINGS = (("model", "id"), ("run", "out"), ("loss", "pretraining_data"), ("prompts",))


def base_model(name: str) -> str | None:
    """Return the hub id of a model, or None for a local folder or file.

    A folder in the hub's cache counts as the repository that it was downloaded from.
    """
    if os.path.exists(name):
        match = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]", os.path.abspath(name) + os.sep)
        return f"{match[1]}/{match[2]}" if match else None
    return name if is_repo_id(name) else None


def public_name(name: str) -> str:
    """Return a name as it may be published: of a path that exists or is absolute, only the last part."""
    if name and (os.path.exists(name) or os.path.isabs(name)):
        return Path(name).resolve().name
    return name


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a run's settings without paths of this machine."""
    result: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()
    }
    for path in PATH_SETTINGS:
        section = result[path[0]] if len(path) > 1 else result
        section[path[-1]] = public_name(section[path[-1]])
    result["model"]["id"] = base_model(settings["model"]["id"]) or result["model"]["id"]
    result["rewards"] = [{**reward, "name": public_name(reward["name"])} for reward in settings["rewards"]]
    return result
