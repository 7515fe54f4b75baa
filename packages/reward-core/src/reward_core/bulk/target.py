"""Where scores go: shards that appear whole in a folder, at the end joined to the file asked for.

For ``scores.parquet`` the folder is ``scores.parquet.parts``, and it is gone when the file is there. A target
that is a folder keeps its shards. The folder also holds the lock against a second run and run.json, the
settings that the shards were computed with.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..score_file import load_pyarrow, read_outcomes, write_rows
from ..scorer import ScoredRow
from ..whole_file import whole_file
from .input_row import error_kind
from .joining import join
from .shards import Shards

FORMATS = ("csv", "jsonl", "parquet")
RUN_FILE, LOCK_FILE = "run.json", "lock"


class Target:
    """One run's results.

    Args:
        out: a .csv, .jsonl or .parquet; or a folder, or a path that ends in a slash.
        file_format: the shards' format where ``out`` is a folder (default: parquet).
    """

    def __init__(self, out: str | os.PathLike[str], file_format: str | None = None):
        self.out = Path(out)
        self.keeps_shards = self.out.is_dir() or os.fspath(out).endswith(("/", os.sep))
        self.extension = f".{file_format or 'parquet'}" if self.keeps_shards else self.out.suffix
        if self.extension.removeprefix(".") not in FORMATS:
            raise InputError(f"{out}: a bulk run writes .{', .'.join(FORMATS)}, or a folder of these")
        if not self.keeps_shards and file_format and self.extension != f".{file_format}":
            raise InputError(f"{out}: its extension is not that of the format {file_format!r}")
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"{out}: cannot be written (in a folder that does not exist)")
        if self.extension == ".parquet":
            load_pyarrow()
        self.folder = self.out if self.keeps_shards else Path(f"{self.out}.parts")
        self.errors: Counter[str] = Counter()
        self.done: set[int] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder exists and is this run's alone.

        Raises:
            OutputError: another run is at work on it, or it cannot be written.
        """
        import filelock

        with self._writing():
            made = not self.folder.exists()
            self.folder.mkdir(exist_ok=True)
            lock = filelock.FileLock(self.folder / LOCK_FILE)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout as error:
                raise OutputError(f"{self.out}: another run is at work on it ({lock.lock_file})") from error
        try:
            yield
        finally:
            if made and not (self.folder / RUN_FILE).exists():  # nothing was begun, or all is done
                shutil.rmtree(self.folder, ignore_errors=True)
            lock.release()

    def begin(self, settings: dict[str, Any], shards: Shards) -> None:
        """Find out which shards an earlier run has done.

        Raises:
            InputError: it had other settings, or the folder holds something else.
        """
        self.shards = shards
        for left in self.folder.glob(".*.tmp"):  # of a run that was killed
            left.unlink()
        file = self.folder / RUN_FILE
        if file.is_file():
            self._check_same(json.loads(file.read_text(encoding="utf-8")), settings)
            self._count_done()
            return
        strangers = [path.name for path in self.folder.glob(f"rows-*{self.extension}")]
        if strangers:
            raise InputError(f"{self.folder}: {strangers[0]} is of no run of this command; give a new folder")
        with self._writing(), whole_file(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def missing(self) -> list[int]:
        """The shards that are still to be scored."""
        return [shard for shard in range(len(self.shards)) if shard not in self.done]

    def write(self, shard: int, rows: Sequence[ScoredRow]) -> None:
        """Raises OutputError where there is no room, or no permission."""
        with self._writing():
            write_rows(rows, self._shard_path(shard), first=self.shards.range(shard).start)
        self.done.add(shard)
        self.errors.update(error_kind(row.error) for row in rows if row.error)

    def finish(self) -> None:
        """All shards are there: join them to the file asked for, and remove them."""
        if self.keeps_shards:
            return
        paths = [self._shard_path(shard) for shard in range(len(self.shards))]
        with self._writing(), whole_file(self.out, beside=self.folder) as temporary:
            join(paths, temporary, self.extension)
        # run.json goes last: a run killed meanwhile still knows whose shards the rest are.
        for path in paths:
            path.unlink()
        (self.folder / RUN_FILE).unlink()
        shutil.rmtree(self.folder)

    def _shard_path(self, shard: int) -> Path:
        return self.folder / self.shards.file_name(shard, self.extension)

    def _count_done(self) -> None:
        for shard in range(len(self.shards)):
            path = self._shard_path(shard)
            if not path.is_file():
                continue
            try:
                outcomes = list(read_outcomes(path))
            except (ValueError, KeyError, OSError) as error:
                raise InputError(f"{path}: damaged, remove it to have it made anew: {error}") from error
            if [row for row, _ in outcomes] != list(self.shards.range(shard)):
                raise InputError(f"{path}: not the rows expected; remove it to have it made anew")
            self.done.add(shard)
            self.errors.update(error_kind(error) for _, error in outcomes if error)

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [
            f"{name} was {_short(before.get(name))}, now {_short(now.get(name))}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds the beginning of another run: {'; '.join(changed)}. Go on with what it "
                "was begun with, or remove the folder to begin anew"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            reason = _reason(error.strerror or str(error))
            where = error.filename or self.folder
            kept = f"the {len(self.done):,} shards of scores that are done are kept"
            raise OutputError(
                f"{where}: cannot be written: {reason}; {kept}, and the same command goes on from them"
            ) from error


def _reason(text: str) -> str:
    """What the system said, out of a sentence of pyarrow's."""
    number = re.search(r"\[errno (\d+)\]", text)
    return os.strerror(int(number[1])) if number else text.split("\n")[0]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_short(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
