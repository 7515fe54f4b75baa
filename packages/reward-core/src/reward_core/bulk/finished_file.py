"""The record of a finished output file, so that the same command recognizes it and another one does not
replace it.

For ``scores.parquet`` it is the hidden file ``.scores.parquet.run`` in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.atomic_write import write_text
from .image_states import changed_shards
from .run_settings import changed_settings
from .shard_index import ShardRecord
from .shards import Shards
from .sources import Source
from .sources.base import file_digest

ADVICE = "Use another --out, or --overwrite to replace it"


@dataclass(frozen=True)
class _Record:
    settings: dict[str, Any]
    sha256: str
    images: list[str | None]
    errors: dict[str, int]


def record_path(out: Path) -> Path:
    """Return the path of the record of an output file."""
    return out.with_name(f".{out.name}.run")


def write_record(
    out: Path, sha256: str, settings: dict[str, Any], shards: Sequence[ShardRecord], errors: dict[str, int]
) -> None:
    """Write the record of an output file.

    Args:
        out: the output file.
        sha256: its checksum.
        settings: what the scores depend on.
        shards: the records of its shards, in order.
        errors: kind of error -> number of rows.
    """
    record = _Record(settings, sha256, [shard.images for shard in shards], errors)
    write_text(record_path(out), json.dumps(asdict(record)) + "\n")


def is_result(out: Path, sha256: str, settings: dict[str, Any]) -> bool:
    """Return whether a record says that a run with these settings wrote a file with this checksum."""
    record = _read(record_path(out))
    return record is not None and record.sha256 == sha256 and not changed_settings(record.settings, settings)


def finished_errors(out: Path, settings: dict[str, Any], shards: Shards, source: Source) -> dict[str, int]:
    """Return the errors of a finished run (kind -> number of rows).

    Raises:
        InputError: the file is not the result of a run with these settings and these images.
    """
    record = _recorded(out)
    if changed := changed_settings(record.settings, settings):
        raise InputError(
            f"Cannot write '{out}': it has the scores of a run with other settings or input: {changed}. "
            f"{ADVICE}."
        )
    if file_digest(out) != record.sha256:
        raise InputError(f"Cannot write '{out}': it was changed after it was written. {ADVICE}.")
    scored = {
        shard: (len(shards.range(shard)), digest)
        for shard, digest in enumerate(record.images)
        if digest is not None
    }
    if list(changed_shards(source, shards, scored)):
        raise InputError(
            f"Cannot write '{out}': it is finished, but images changed after they were scored. {ADVICE}."
        )
    return record.errors


def check_recorded(out: Path) -> None:
    """Raise InputError if an output file has no record."""
    _recorded(out)


def _recorded(out: Path) -> _Record:
    record = _read(record_path(out))
    if record is None:
        raise InputError(f"Cannot write '{out}': it exists, and no record says which run wrote it. {ADVICE}.")
    return record


def _read(path: Path) -> _Record | None:
    """Return a record, or None if it is missing or damaged."""
    try:
        record = _Record(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError, OSError):
        return None
    valid = isinstance(record.settings, dict) and isinstance(record.images, list)
    return record if valid and isinstance(record.errors, dict) else None
