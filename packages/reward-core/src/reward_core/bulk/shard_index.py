"""The checksums of a run's finished shards, a line each in one file beside them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

INDEX_FILE = ".bulk-shards.jsonl"


@dataclass(frozen=True)
class ShardRecord:
    """What is recorded of a finished shard.

    Attributes:
        shard: its number.
        sha256: of its file.
        images: digest of its images' states (see image_states.py); None if none of them is a path.
        errors: kind of error -> rows.
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
        """Read the file, if there is one; a line that is damaged is skipped, so its shard has no record."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                if (record := _record(line)) is not None:
                    self.records[record.shard] = record

    def add(self, record: ShardRecord) -> None:
        """Append a record, on the disk when this returns.

        Call it before the shard gets its final name: then no valid shard is without a checksum.
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
    """Whether the last line has no end: its run was killed while it wrote."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
