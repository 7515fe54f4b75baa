"""Where scores go: shards that appear whole in a folder, at the end joined to the file asked for.

For ``scores.parquet`` the folder is ``scores.parquet.parts``, and it is gone when the file is there. A target
that is a folder keeps its shards. The folder also holds the lock against a second run and the settings that
the shards were computed with, as hidden files: readers of a folder of Parquet pass these over.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..score_file import load_pyarrow, read_outcomes, write_rows
from ..scorer import ScoredRow
from ..whole_file import take_lock, whole_file
from .input_row import error_kind
from .joining import join
from .shards import Shards

FORMATS = ("csv", "jsonl", "parquet")
RUN_FILE, LOCK_FILE = ".bulk-run.json", ".bulk-lock"


class Target:
    """One run's results.

    Args:
        out: a .csv, .jsonl or .parquet; or a folder, or a path that ends in a slash.
        file_format: the shards' format where ``out`` is a folder (default: parquet).
    """

    def __init__(self, out: str | os.PathLike[str], file_format: str | None = None):
        if not os.fspath(out):
            raise InputError('--out is empty: give a file, or a folder ("." for the current one)')
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

    def spare(self, inputs: Iterable[str | os.PathLike[str]]) -> None:
        """Raise InputError, before anything is written, if the target is one of the input's own files."""
        for path in inputs if self.out.is_file() else ():
            if os.path.exists(path) and os.path.samefile(path, self.out):
                raise InputError(
                    f"{self.out}: it is the input {path}, which the scores would replace; give another --out"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder exists and is this run's alone.

        Raises:
            OutputError: another run is at work on it, or it cannot be written.
        """
        with self._writing():
            made = not self.folder.exists()  # else it may hold what is not this command's
            self.folder.mkdir(exist_ok=True)
            lock = take_lock(self.folder / LOCK_FILE, self.out)
        try:
            yield
        finally:
            if not (self.folder / RUN_FILE).exists():  # nothing was begun, or all is done
                for path in [*self.folder.glob(".bulk-*"), *self.folder.glob("..bulk-*.tmp")]:
                    path.unlink(missing_ok=True)
                if made or not self.keeps_shards:
                    with suppress(OSError):  # files of others are in it
                        self.folder.rmdir()
            lock.release()

    def begin(self, settings: dict[str, Any], shards: Shards) -> None:
        """Find out which shards an earlier run has done.

        Raises:
            InputError: it had other settings, or the folder holds something else.
        """
        self.shards = shards
        file = self.folder / RUN_FILE
        if file.exists():
            self._check_same(_earlier(file), settings)
            self._remove_leftovers()
            self._count_done()
            return
        strangers = [path.name for path in self.folder.glob("rows-*") if path.suffix[1:] in FORMATS]
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
        # RUN_FILE goes last: a run killed meanwhile still knows whose shards the rest are.
        for path in paths:
            path.unlink()
        (self.folder / RUN_FILE).unlink()

    def _shard_path(self, shard: int) -> Path:
        return self.folder / self.shards.file_name(shard, self.extension)

    def _remove_leftovers(self) -> None:
        """Halves of files, of a run that was killed; only where RUN_FILE tells that the folder is ours."""
        patterns = [".rows-*.tmp", "..bulk-*.tmp"]
        if not self.keeps_shards:  # joined files begin in the folder
            patterns.append(glob.escape(f".{self.out.name[:50]}") + "*.tmp")
        for pattern in patterns:
            for left in self.folder.glob(pattern):
                left.unlink()

    def _count_done(self) -> None:
        for shard in range(len(self.shards)):
            path = self._shard_path(shard)
            if not path.is_file():
                continue
            try:
                outcomes = read_outcomes(path)
            except (ValueError, OSError, RecursionError) as error:
                raise InputError(f"{path}: damaged, remove it to have it made anew: {error}") from error
            if [row for row, _ in outcomes] != list(self.shards.range(shard)):
                raise InputError(f"{path}: not the rows expected; remove it to have it made anew")
            self.done.add(shard)
            self.errors.update(error_kind(error) for _, error in outcomes if error)

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        both = [(name, before.get(name), now.get(name)) for name in dict.fromkeys([*before, *now])]
        changed = [
            f"{name} was {_short(old, new)}, now {_short(new, old)}" for name, old, new in both if old != new
        ]
        if changed:
            # A folder that was given may hold more than scores: it is not for us to say that it may go.
            anew = "give another --out" if self.keeps_shards else "remove the folder"
            raise InputError(
                f"{self.folder} holds the beginning of another run: {'; '.join(changed)}. Go on with what it "
                f"was begun with, or {anew} to begin anew"
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


def _earlier(file: Path) -> dict[str, Any]:
    """The settings of the run that the folder is of."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{file}: damaged, so the shards beside it cannot be gone on with: {error}; give another --out"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"{file}: it holds no settings of a run, but a {type(settings).__name__}; give another --out"
        )
    return settings


def _reason(text: str) -> str:
    """What the system said, out of a sentence of pyarrow's."""
    number = re.search(r"\[errno (\d+)\]", text)
    return os.strerror(int(number[1])) if number else text.split("\n")[0]


def _short(value: Any, other: Any) -> str:
    """For a message; of a dict only what is not as in the other."""
    if isinstance(value, dict):
        other = other if isinstance(other, dict) else {}
        parts = [
            f"{key} {_short(item, other.get(key))}" for key, item in value.items() if item != other.get(key)
        ]
        return "{" + ", ".join(parts) + "}"
    text = str(value)
    return text if len(text) <= 24 or os.sep in text else f"{text[:12]}..."
