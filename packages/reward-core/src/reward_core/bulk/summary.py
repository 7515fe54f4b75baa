"""What came of a bulk run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BulkSummary:
    """Counts of a finished run.

    out: file or folder. rows: all of the input. scored, failed: rows with a score, with an error.
    errors: kind of error -> rows, the most frequent first.
    resumed_rows: rows found done by an earlier run of the same command.
    pictures_encoded, prompts_cut: in this run: images the model looked at, prompts longer than it reads.
    extra_images: images of the input that are not scored because another one of their sample is (tars).
    seconds: of this run, start-up included. rows_per_second: of this run, while scoring.
    """

    out: str
    rows: int
    scored: int
    failed: int
    errors: dict[str, int]
    resumed_rows: int
    pictures_encoded: int
    prompts_cut: int
    extra_images: int
    seconds: float
    rows_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: keys as the fields."""
        return asdict(self)

    def in_words(self) -> str:
        """A line or two for people."""
        lines = [f"{self.scored:,} scores in {self.out}"]
        if self.failed:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.errors.items())
            lines.append(f"{self.failed:,} rows have an error instead: {kinds}")
        return "\n".join(lines)
