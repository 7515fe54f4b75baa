"""The scored rows of an unfinished shard, and the file that saves them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..files.atomic_write import atomic_write
from ..files.score_file import GroupRow


@dataclass
class ShardPart:
    """The first rows of a shard, in order, with the states of their images (see image_states.py)."""

    rows: list[GroupRow] = field(default_factory=list)
    image_states: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> ShardPart:
        """Return the first ``count`` rows."""
        return ShardPart(self.rows[:count], self.image_states[:count])


def write_part(part: ShardPart, path: Path) -> None:
    """Write a part atomically: a line with the SHA-256 of the rest, then one JSON list per row.

    JSON stores floats with enough digits to restore them exactly.
    """
    records = (
        [row.prompt, row.image, row.scores, row.error, row.kind, state]
        for row, state in zip(part.rows, part.image_states)
    )
    text = "".join(json.dumps(record) + "\n" for record in records)
    with atomic_write(path) as temporary:
        temporary.write_text(f"{_sha256(text)}\n{text}", encoding="ascii", newline="\n")


def read_part(path: Path) -> ShardPart:
    """Read a file of ``write_part``. Raise ValueError if any byte changed, OSError if it is unreadable."""
    checksum, _, text = path.read_bytes().decode("ascii").partition("\n")
    if checksum != _sha256(text):
        raise ValueError("its checksum does not match its rows")
    records = [json.loads(line) for line in text.splitlines()]
    return ShardPart([GroupRow(*record[:-1]) for record in records], [record[-1] for record in records])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
