"""Fixed ranges of rows; each is written to one file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = re.compile(r"rows-\d{12,}\.(csv|jsonl|parquet)", re.ASCII)


@dataclass(frozen=True)
class Shards:
    """``rows`` rows divided into ranges of ``size`` rows; the last may be shorter."""

    rows: int
    size: int

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def range(self, shard: int) -> range:
        """Return the indices of a shard's rows."""
        return range(shard * self.size, min(self.rows, (shard + 1) * self.size))

    def file_name(self, shard: int, extension: str) -> str:
        """Return a shard's file name, with the index of its first row, so that names sort by row."""
        return f"rows-{shard * self.size:012d}{extension}"


def shard_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have the name of a shard of any run."""
    return [path for path in folder.glob("rows-*") if FILE_NAME.fullmatch(path.name)]
