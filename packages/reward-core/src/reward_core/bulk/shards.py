"""Fixed ranges of rows, each of which is written at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shards:
    """``rows`` rows in ranges of ``size``; the last may be shorter."""

    rows: int
    size: int

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def range(self, shard: int) -> range:
        """The numbers of a shard's rows."""
        return range(shard * self.size, min(self.rows, (shard + 1) * self.size))

    def file_name(self, shard: int, extension: str) -> str:
        """Sorted by name they are in order; the number is that of the first row."""
        return f"rows-{shard * self.size:012d}{extension}"
