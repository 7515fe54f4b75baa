"""Weights in several files: the index that names them."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..files.json_file import read_json
from ..files.limits import MB, Limit

MAX_INDEX_BYTES = Limit("MAX_INDEX_BYTES", 16 * MB)


def is_index(name: str) -> bool:
    """Return whether a file is an index of shards, by its name."""
    return name.endswith(".index.json")


def shard_names(index: Path) -> list[str]:
    """Return the names of the files in an index, sorted. They belong to the folder of the index.

    Raises:
        CheckpointError: the index cannot be read, or names files in other folders.
    """
    content = read_json(index, MAX_INDEX_BYTES)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
        raise CheckpointError(f"Cannot load '{index}': it has no 'weight_map' from weights to files.")
    files = sorted(set(names.values()))
    if outside := [name for name in files if Path(name).name != name]:
        raise CheckpointError(f"Cannot load '{index}': {outside[0]!r:.200} is not the name of a file.")
    return files


def shard_paths(index: Path) -> list[Path]:
    """Return the files in an index, sorted.

    Raises:
        CheckpointError: the index cannot be read, or a file is missing.
    """
    files = shard_names(index)
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"Cannot load '{index}': {len(missing)} of {len(files)} files are missing: "
            f"{', '.join(missing[:5])}. Copy them to the same folder."
        )
    return [index.parent / name for name in files]
