"""scores.jsonl: a row per image and scorer, appended as it comes, whole after any interruption.

Where an image, its prompt or the scorer's files changed meanwhile, it is scored again; the last row counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from reward_core.errors import InputError
from reward_core.files.json_file import parse_json

Key = tuple[str, str, str]  # part, scorer, image


@dataclass(frozen=True)
class Score:
    """An image's score, or the error that kept it from having one.

    of: fingerprint of what was scored; None where the scores come from somewhere else.
    """

    score: float | None
    error: str | None = None
    of: str | None = None


def fingerprint(prompt: str, image: Path, scorer: str) -> str:
    """Changes with the prompt, with the image's file, and with the scorer's, if it is a file or folder."""
    files, model = [image], Path(scorer)
    if model.exists():
        files += sorted(model.iterdir()) if model.is_dir() else [model]
    stamps = [prompt]
    for file in files:
        with contextlib.suppress(OSError):  # an image that is not there gets a row with its error
            known = file.stat()
            stamps.append(f"{file.name} {known.st_size} {known.st_mtime_ns}")
    return hashlib.blake2s("\0".join(stamps).encode(errors="surrogateescape"), digest_size=8).hexdigest()


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
        for (part, scorer, image), score in rows.items():
            row = {"part": part, "scorer": scorer, "picture": image, "score": score.score}
            row |= {name: value for name in ("error", "of") if (value := getattr(score, name)) is not None}
            lines.append(json.dumps(row))
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
        row = parse_json(line.decode())
        score = row["score"]
        key = (row["part"], row["scorer"], row["picture"])
        return key, Score(None if score is None else float(score), row.get("error"), row.get("of"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
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
