"""scores.jsonl: one row per image and scorer, appended as scores arrive.

If an image, its prompt or the scorer's files have changed, the image is scored again; the last row counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from reward_core.errors import InputError
from reward_core.files.format_version import FORMAT_VERSION
from reward_core.files.json_file import parse_json

from .json_record import CURRENT_FORMAT, JsonObject, JsonRecord, check_format, key

Key = tuple[str, str, str]  # part, scorer, image


@dataclass(frozen=True)
class Score:
    """The score of an image, or the reason why it has none.

    Attributes:
        score: the score; None if the image could not be scored.
        error: reason why there is no score.
        of: fingerprint of prompt, image and scorer; None for scores from other files.
    """

    score: float | None
    error: str | None = None
    of: str | None = None


@dataclass(frozen=True)
class _Row(JsonRecord):
    """A line of scores.jsonl."""

    part: str
    scorer: str
    image: str = field(metadata=key("picture"))
    score: float | None
    error: str | None = None
    of: str | None = None

    def to_json(self) -> JsonObject:
        return {FORMAT_VERSION: CURRENT_FORMAT, **super().to_json()}


def fingerprint(prompt: str, image: Path, scorer: str) -> str:
    """Return a hash of the prompt, the image file and the scorer's files.

    Args:
        prompt: prompt of the image.
        image: path of the image.
        scorer: name of the scorer, or path of its file or folder.
    """
    files, model = [image], Path(scorer)
    if model.exists():
        files += sorted(model.iterdir()) if model.is_dir() else [model]
    stamps = [prompt]
    for file in files:
        with contextlib.suppress(OSError):  # a missing image gets a row with its error
            stat = file.stat()
            stamps.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.blake2s("\0".join(stamps).encode(errors="surrogateescape"), digest_size=8).hexdigest()


class ScoreStore:
    """The rows of one run, on disk and in memory; a context manager.

    The caller holds the lock of the run.

    Opening it removes a last line that an interrupted process has not finished writing.

    Raises:
        InputError: on opening, if a line is not a row or has another format version.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[Key, Score] = {}

    def __enter__(self) -> ScoreStore:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        try:
            self._file.seek(0)
            content = self._file.readall()
            self.rows = dict(_rows(content, self.path))
            if (end := _end_of_rows(content)) < len(content):
                self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: dict[Key, Score]) -> None:
        """Append rows and flush them to disk."""
        lines = (
            json.dumps(_Row(*row_key, row.score, row.error, row.of).to_json()) + "\n"
            for row_key, row in rows.items()
        )
        content = memoryview("".join(lines).encode())
        while content:
            content = content[self._file.write(content) :]
        os.fsync(self._file.fileno())
        self.rows.update(rows)


def read_store(path: Path) -> dict[Key, Score]:
    """Read the rows of a run without changing the file.

    Raises:
        InputError: the file is missing, or a line is not a row or has another format version.
    """
    if not path.is_file():
        raise InputError(f"Cannot read '{path}': no such file. `reward-benchmark run` writes it.")
    return dict(_rows(path.read_bytes(), path))


def _rows(content: bytes, path: Path) -> Iterator[tuple[Key, Score]]:
    for number, line in enumerate(content[: _end_of_rows(content)].splitlines(), start=1):
        yield _row(line, path, number)


def _end_of_rows(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _row(line: bytes, path: Path, number: int) -> tuple[Key, Score]:
    what_to_do = "Remove the file to score all images again, or give another --out."
    try:
        document = check_format(parse_json(line.decode()), path, what_to_do)
        row = _Row.from_json(document)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"Cannot read '{path}': line {number} is not a row of scores ({error}). "
            f"Remove the line, or remove the file to score all images again."
        ) from error
    return (row.part, row.scorer, row.image), Score(row.score, row.error, row.of)
