"""An index file with the checksums of a run's finished shards, one line per shard."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

INDEX_FILE = ".bulk-shards.jsonl"


@dataclass(frozen=True)
class ShardRecord:
    """The record of a finished shard.

    Attributes:
        shard: number of the shard.
        sha256: checksum of its file.
        images: digest of the states of its images (see image_states.py); None if no image is a path.
        errors: kind of error -> number of rows.
    """

    shard: int
    sha256: str
    images: str | None
    errors: dict[str, int]


class ShardIndex:
    """Records by shard. A later line of the file replaces an earlier one of the same shard."""

    def __init__(self, folder: Path):
        self.path = folder / INDEX_FILE
        self.records: dict[int, ShardRecord] = {}

    def load(self) -> None:
        """Read the file if it exists; damaged lines are skipped, so their shards have no record."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                if (record := _record(line)) is not None:
                    self.records[record.shard] = record

    def add(self, record: ShardRecord) -> None:
        """Append a record and flush it to disk.

        Call it before renaming the shard to its final name, so that every valid shard has a checksum.
        """
        line = json.dumps(asdict(record)) + "\n"
        with self.path.open("ab+") as file:
            if _is_cut(file):
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.records[record.shard] = record


def _record(line: bytes) -> ShardRecord | None:
    try:
        record = ShardRecord(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    valid = isinstance(record.shard, int) and isinstance(record.errors, dict)
    return record if valid and all(isinstance(count, int) for count in record.errors.values()) else None


def _is_cut(file) -> bool:
    """Return whether the last line is incomplete because the run was killed while writing it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
