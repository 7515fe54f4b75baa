"""scores.jsonl: a row per picture and scorer, appended as it comes, whole after any interruption."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from reward_core.errors import InputError

Key = tuple[str, str, str]  # part, scorer, picture


@dataclass(frozen=True)
class Score:
    """A picture's score, or the error that kept it from having one."""

    score: float | None
    error: str | None = None


class ScoreStore:
    """The rows of one run, on disk and in memory; use as a context manager.

    A last line that a killed process left half written is cut off on opening. A second process on the same
    folder is refused, so nothing is scored twice.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[Key, Score] = {}

    def __enter__(self) -> ScoreStore:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            _lock(self._file, self.path)
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: dict[Key, Score]) -> None:
        """Append rows and bring them to the disk."""
        lines = []
        for (part, scorer, picture), score in rows.items():
            row = {"part": part, "scorer": scorer, "picture": picture, "score": score.score}
            lines.append(json.dumps(row if score.error is None else {**row, "error": score.error}))
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.update(rows)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            self._file.truncate(end)
        for number, line in enumerate(content[:end].splitlines(), start=1):
            key, score = _row(line, f"{self.path}:{number}")
            self.rows[key] = score


def read_store(path: Path) -> dict[Key, Score]:
    """The rows of a run, read only.

    Raises:
        InputError: no such file, or a line of another form.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `reward-benchmark run` writes it")
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return dict(_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1))


def _row(line: bytes, where: str) -> tuple[Key, Score]:
    try:
        row = json.loads(line)
        score = row["score"]
        key = (row["part"], row["scorer"], row["picture"])
        return key, Score(None if score is None else float(score), row.get("error"))
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{where} is no row of scores: {line[:80]!r}; remove the line or the file"
        ) from error


def _lock(file, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"{path} is in use by another run; wait for it or give another --out") from error
