"""Where scores go: shards that appear whole in a folder, at the end joined to the file asked for.

For ``scores.parquet`` the folder is ``scores.parquet.parts``, and it is gone when the file is there. A target
that is a folder keeps its shards. The folder also holds, as hidden files, the lock against a second run, the
settings that the shards were computed with, their checksums and the rows of unfinished shards: readers of a
folder of Parquet pass these over.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError, StaleScoresWarning
from ..files.atomic_write import atomic_write
from ..files.parquet import load_pyarrow
from ..files.score_file import write_rows_as
from ..runs.caller_warning import warn_caller
from ..runs.run_lock import take_lock
from .image_states import changed_shards, states_digest
from .input_row import error_kind
from .joining import join
from .run_settings import check_same, read_settings
from .shard_index import ShardIndex, ShardRecord
from .shard_part import ShardPart, read_part, write_part
from .shards import Shards
from .sources import Source
from .sources.base import file_digest

FORMATS = ("csv", "jsonl", "parquet")
RUN_FILE, LOCK_FILE = ".bulk-run.json", ".bulk-lock"
PART_PREFIX = ".bulk-part-"
WARNED = 5  # file names in a warning


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
        self.parts: dict[int, ShardPart] = {}
        self.index = ShardIndex(self.folder)

    def refuse_input_overwrite(self, inputs: Iterable[str | os.PathLike[str]]) -> None:
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
            OutputError: another run is using it, or it cannot be written.
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

    def begin(self, settings: dict[str, Any], shards: Shards, source: Source) -> None:
        """Find out what an earlier run has done.

        A shard that is damaged, or with an image that was replaced since, counts as not done.

        Raises:
            InputError: the earlier run had other settings, or the folder holds something else.

        Warns:
            StaleScoresWarning: what is scored again, and why.
        """
        self.shards = shards
        file = self.folder / RUN_FILE
        if file.exists():
            # A folder that was given may hold more than scores: it is not for us to say that it may go.
            start_over = "give another --out" if self.keeps_shards else "remove the folder"
            check_same(self.folder, read_settings(file), settings, start_over)
            self._remove_leftovers()
            self.index.load()
            self._find_done()
            self._find_parts(settings["batch_size"])
            self._drop_changed(source)
            return
        strangers = [path.name for path in self.folder.glob("rows-*") if path.suffix[1:] in FORMATS]
        if strangers:
            raise InputError(f"{self.folder}: {strangers[0]} is of no run of this command; give a new folder")
        with self._writing(), atomic_write(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def missing(self) -> list[int]:
        """The shards that are still to be scored."""
        return [shard for shard in range(len(self.shards)) if shard not in self.done]

    def write(self, shard: int, part: ShardPart) -> None:
        """Write a finished shard. Raises OutputError where there is no room, or no permission."""
        errors = Counter(error_kind(row.error) for row in part.rows if row.error)
        with self._writing():
            with atomic_write(self._shard_path(shard)) as temporary:
                write_rows_as(self.extension, part.rows, temporary, self.shards.range(shard).start)
                images = states_digest(part.image_states)
                self.index.add(ShardRecord(shard, file_digest(temporary), images, dict(errors)))
            self._part_path(shard).unlink(missing_ok=True)
        self.done.add(shard)
        self.errors.update(errors)

    def has(self, shard: int) -> bool:
        """Return whether a shard is written, also if an interruption came before ``write`` could say so."""
        if shard not in self.done and self._is_intact(shard):
            self.done.add(shard)
            self.errors.update(self.index.records[shard].errors)
        return shard in self.done

    def write_part(self, shard: int, part: ShardPart) -> None:
        """Write the rows of an unfinished shard, as far as they are scored. Raises OutputError."""
        with self._writing():
            write_part(part, self._part_path(shard))

    def finish(self) -> None:
        """All shards are there: join them to the file asked for, and remove them."""
        if self.keeps_shards:
            return
        paths = [self._shard_path(shard) for shard in range(len(self.shards))]
        checksums = [self.index.records[shard].sha256 for shard in range(len(self.shards))]
        with self._writing(), atomic_write(self.out, beside=self.folder) as temporary:
            join(list(zip(paths, checksums)), temporary, self.extension)
        # RUN_FILE goes last: a run killed meanwhile still knows whose shards the rest are.
        for path in paths:
            path.unlink()
        (self.folder / RUN_FILE).unlink()

    def _shard_path(self, shard: int) -> Path:
        return self.folder / self.shards.file_name(shard, self.extension)

    def _part_path(self, shard: int) -> Path:
        return self.folder / f"{PART_PREFIX}{self.shards.range(shard).start:012d}.jsonl"

    def _remove_leftovers(self) -> None:
        """Halves of files, of a run that was killed; only where RUN_FILE tells that the folder is ours."""
        patterns = [".rows-*.tmp", "..bulk-*.tmp"]
        if not self.keeps_shards:  # joined files begin in the folder
            patterns.append(glob.escape(f".{self.out.name[:50]}") + "*.tmp")
        for pattern in patterns:
            for left in self.folder.glob(pattern):
                left.unlink()

    def _find_done(self) -> None:
        damaged = []
        for shard in range(len(self.shards)):
            path = self._shard_path(shard)
            if path.is_file() and not self.has(shard):
                damaged.append(path.name)
        self._warn(damaged, "it was changed after it was written")

    def _is_intact(self, shard: int) -> bool:
        record = self.index.records.get(shard)
        try:
            return record is not None and file_digest(self._shard_path(shard)) == record.sha256
        except OSError:
            return False

    def _find_parts(self, batch_size: int) -> None:
        damaged = []
        for path in sorted(self.folder.glob(f"{PART_PREFIX}*.jsonl")):
            number = path.name.removeprefix(PART_PREFIX).removesuffix(".jsonl")
            shard = int(number) // self.shards.size if number.isdecimal() else len(self.shards)
            if shard >= len(self.shards) or shard in self.done:
                path.unlink()
                continue
            try:
                part = read_part(path)
            except (ValueError, TypeError, RecursionError, OSError):
                damaged.append(path.name)
                continue
            # The rest of the shard is then computed in the batches of a run that was never stopped.
            if 0 < len(part) < len(self.shards.range(shard)) and len(part) % batch_size == 0:
                self.parts[shard] = part
        self._warn(damaged, "it was changed after it was written")

    def _drop_changed(self, source: Source) -> None:
        """Forget what was scored of images that were replaced since."""
        scored = {}
        for shard in self.done:
            if (digest := self.index.records[shard].images) is not None:
                scored[shard] = len(self.shards.range(shard)), digest
        for shard, part in self.parts.items():
            if (digest := states_digest(part.image_states)) is not None:
                scored[shard] = len(part), digest
        changed = list(changed_shards(source, self.shards, scored))
        for shard in changed:
            if shard in self.done:
                self.done.remove(shard)
                self.errors -= Counter(self.index.records.pop(shard).errors)
            self.parts.pop(shard, None)
        names = [self._shard_path(shard).name for shard in changed]
        self._warn(names, "one or more of their images were replaced")

    def _warn(self, names: list[str], reason: str) -> None:
        if names:
            shown = ", ".join(names[:WARNED]) + (
                f" and {len(names) - WARNED:,} more" if names[WARNED:] else ""
            )
            message = f"scoring the rows of {shown} in {self.folder} again: {reason}"
            warn_caller(message, StaleScoresWarning)

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
