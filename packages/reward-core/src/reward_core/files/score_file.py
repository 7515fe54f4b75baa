"""Score files: CSV, JSON, JSON lines or Parquet, depending on the extension."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .atomic_write import atomic_write
from .parquet import load_pyarrow

SCORE = "score"  # column of the scores of a single scorer
FIXED_COLUMNS = ("row", "prompt", "image", "error")
EXTENSIONS = (".csv", ".json", ".jsonl", ".parquet")


def check_writable(path: Path) -> None:
    """Raise InputError if ``write_rows`` cannot write to a path."""
    if path.suffix not in EXTENSIONS:
        raise InputError(f"Cannot write scores to '{path}': the extension must be {' or '.join(EXTENSIONS)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(
            f"Cannot write scores to '{path}': it is a folder, or its folder does not exist. Choose "
            "another file."
        )
    if path.suffix == ".parquet":
        load_pyarrow()


def score_columns(scorers: Sequence[str]) -> dict[str, str]:
    """Return scorer -> name of its column: "score" for a single scorer, otherwise the scorer's name."""
    return {scorers[0]: SCORE} if len(scorers) == 1 else {name: name for name in scorers}


def columns(scorers: Sequence[str]) -> list[str]:
    """Return the columns of a file: row, prompt, image, those of the scores, error."""
    return ["row", "prompt", "image", *score_columns(scorers).values(), "error"]


def write_rows(rows: Sequence[GroupRow], path: Path, scorers: Sequence[str], first: int = 0) -> None:
    """Write the columns of each row to a file, atomically.

    Args:
        rows: the rows.
        path: the file; its extension is the format.
        scorers: names of the scorers.
        first: number of the first row.
    """
    with atomic_write(path) as temporary:
        write_rows_as(path.suffix, rows, temporary, scorers, first)


def write_rows_as(
    extension: str, rows: Sequence[GroupRow], path: Path, scorers: Sequence[str], first: int = 0
) -> None:
    """Write rows to a file of any name, in the format of an extension.

    Bytes of a file name that are not UTF-8 are written as "\\udc.." escapes (which JSON decodes), also in
    errors that contain the name.
    """
    records = [_record(i, row, scorers) for i, row in enumerate(rows, start=first)]
    if extension == ".parquet":
        pyarrow = load_pyarrow()
        for record in records:
            for name in ("image", "error"):
                record[name] = record[name] and record[name].encode(errors="backslashreplace").decode()
        table = pyarrow.Table.from_pylist(records, parquet_schema(scorers))
        pyarrow.parquet.write_table(table, path)
    elif extension == ".csv":
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, columns(scorers))
            writer.writeheader()
            writer.writerows(records)
    else:
        if extension == ".json":
            text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
        else:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def parquet_schema(scorers: Sequence[str]):
    pyarrow = load_pyarrow()
    text = pyarrow.string()
    kinds = {"row": pyarrow.int64(), "prompt": text, "image": text, "error": text}
    return pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns(scorers)])


def _record(number: int, row: GroupRow, scorers: Sequence[str]) -> dict[str, Any]:
    scores = {column: row.scores.get(name) for name, column in score_columns(scorers).items()}
    return {"row": number, "prompt": row.prompt, "image": row.image, **scores, "error": row.error}


@dataclass(frozen=True)
class ScoredRow:
    """Result of a (prompt, image) pair in a long run: a score or an error.

    ``prompt`` is None if the error is a missing prompt.
    """

    prompt: str | None
    image: str
    score: float | None
    error: str | None = None


def joined_error(errors: Mapping[str, str], scorers: int) -> str | None:
    """Return the errors of a pair as one text, None without errors.

    Args:
        errors: reason by name of the scorer that has no score.
        scorers: number of all scorers. If all of them have the same reason, it is not repeated with their
            names.
    """
    if len(errors) == scorers and len(set(errors.values())) == 1:
        return next(iter(errors.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in errors.items()) or None


@dataclass(frozen=True)
class GroupRow:
    """Result of a (prompt, image) pair with one or more scorers.

    Attributes:
        prompt: the prompt; None if it is missing, which is an error.
        image: name of the image.
        scores: scorer -> score; scorers without a score are missing.
        error: why scores are missing (see ``joined_error``). An image that cannot be read has no score at
            all.
        kind: kind by which the error is counted; None to take it from ``error``.
    """

    prompt: str | None
    image: str
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    kind: str | None = None

    def of(self, scorer: str) -> ScoredRow:
        """Return the result of one scorer."""
        score = self.scores.get(scorer)
        return ScoredRow(self.prompt, self.image, score, None if score is not None else self.error)
