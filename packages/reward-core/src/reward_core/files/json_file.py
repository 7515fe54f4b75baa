"""JSON files: read with an error that names the file, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .atomic_write import write_text


def read_json(path: Path) -> Any:
    """A JSON file's content, or a CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """``content`` as a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
