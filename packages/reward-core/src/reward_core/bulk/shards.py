"""Fixed ranges of rows; each is written to one file."""

from __future__ import annotations

from dataclasses import dataclass


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
