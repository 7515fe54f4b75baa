"""The summary of a bulk run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..printing.counts import counted


@dataclass(frozen=True)
class BulkSummary:
    """The counts of a finished run.

    Attributes:
        out: output file or folder.
        rows: rows of the input.
        scored: rows with a score.
        failed: rows with an error.
        errors: kind of error -> number of rows, most frequent first.
        resumed_rows: rows that an earlier run of the same command had scored.
        pictures_encoded: images encoded in this run.
        prompts_cut: prompts truncated in this run.
        extra_images: images of tars that are not scored, because another image of their sample is.
        seconds: duration of this run, including start-up.
        rows_per_second: rows scored per second, without start-up.
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
        """Return the fields as a dict for JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """Return a text of one or two lines."""
        finished = "finished before, nothing to score: " if 0 < self.rows == self.resumed_rows else ""
        lines = [f"{finished}{counted(self.scored, 'score')} in {self.out}"]
        if self.failed:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.errors.items())
            have = "has" if self.failed == 1 else "have"
            lines.append(f"{counted(self.failed, 'row')} {have} an error instead of a score: {kinds}")
        return "\n".join(lines)
