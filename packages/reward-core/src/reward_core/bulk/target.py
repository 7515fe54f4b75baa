"""The output of a bulk run: shards in a folder, written atomically, and joined to one file at the end.

For ``scores.parquet`` the folder is ``scores.parquet.parts``; it is removed after joining. If the output is a
folder, the shards stay in it. Hidden files in the folder are the lock against a second run, the settings of
the run, the checksums of the shards and the rows of unfinished shards. Readers of Parquet folders skip them.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError, StaleScoresWarning
from ..files.atomic_write import atomic_write
from ..files.parquet import load_pyarrow
from ..files.score_file import write_rows_as
from ..runs.caller_warning import warn_caller
from ..runs.run_lock import take_lock
from .finished_file import ADVICE, check_recorded, finished_errors, is_result, write_record
from .image_states import changed_shards, states_digest
from .input_row import error_kind
from .joining import join
from .run_settings import changed_settings, read_settings, write_settings
from .shard_index import ShardIndex, ShardRecord
from .shard_part import ShardPart, read_part, write_part
from .shards import FILE_NAME, Shards, shard_files
from .sources import Source
from .sources.base import file_digest

FORMATS = ("csv", "jsonl", "parquet")
RUN_FILE, LOCK_FILE = ".bulk-run.json", ".bulk-lock"
PART_PREFIX = ".bulk-part-"
WARNED = 5  # file names in a warning


class Target:
    """The output of one run.

    Args:
        out: a .csv, .jsonl or .parquet file, or a folder (it exists, or the path ends with a slash).
        scorers: names of the scorers, for the columns of their scores.
        file_format: format of the shards in a folder (default: parquet).

    Attributes:
        done: numbers of the finished shards.
        parts: saved rows of unfinished shards.
        errors: kind of error -> number of rows in finished shards.
        is_joined: whether the output file is finished and its shards are gone.

    Raises:
        InputError: the path or the format is invalid.
    """

    def __init__(self, out: str | os.PathLike[str], scorers: Sequence[str], file_format: str | None = None):
        if not os.fspath(out):
            raise InputError(
                "Cannot write the scores: --out is empty. Set it to a file or a folder "
                "('.' for the current folder)."
            )
        self.out, self.scorers = Path(out), scorers
        self.keeps_shards = self.out.is_dir() or os.fspath(out).endswith(("/", os.sep))
        self.extension = f".{file_format or 'parquet'}" if self.keeps_shards else self.out.suffix
        if self.extension.removeprefix(".") not in FORMATS:
            raise InputError(
                f"Cannot write '{out}': unknown extension. Use .{', .'.join(FORMATS)}, or a folder: '{out}/'."
            )
        if not self.keeps_shards and file_format and self.extension != f".{file_format}":
            raise InputError(
                f"Cannot write '{out}': its extension does not match the format {file_format!r}. Change one "
                "of them."
            )
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"Cannot write '{out}': its folder does not exist. Create it first.")
        if self.extension == ".parquet":
            load_pyarrow()
        self.folder = self.out if self.keeps_shards else Path(f"{self.out}.parts")
        self.errors: Counter[str] = Counter()
        self.done: set[int] = set()
        self.is_joined = False
        self._replaces_run = False  # whether the folder still has the scores of a run that is started over
        self.parts: dict[int, ShardPart] = {}
        self.index = ShardIndex(self.folder)

    def refuse_input_overwrite(
        self, inputs: Iterable[str | os.PathLike[str]], overwrite: bool = False
    ) -> None:
        """Raise InputError if the output file, or a shard in the folder, is one of the input files.

        Args:
            inputs: the input files; some may not exist.
            overwrite: whether the shards of an earlier run may be removed.
        """
        has_out, has_shards = self.out.is_file(), bool(shard_files(self.folder))
        replaces_shards = has_shards and (self.keeps_shards or overwrite)
        for path in inputs if has_out or replaces_shards else ():
            if has_out and os.path.exists(path) and os.path.samefile(path, self.out):
                raise InputError(
                    f"Cannot write '{self.out}': it is the input file '{path}', which the scores would "
                    "overwrite. Use another --out."
                )
            if replaces_shards and self._has_shard_name(Path(path)):
                raise InputError(
                    f"Cannot write into '{self.folder}': it has the input file '{path}', which a shard of "
                    "the scores would overwrite. Use another --out."
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it for this run.

        Raises:
            OutputError: another run is using the folder, or it is not writable.
        """
        with self._writing():
            created = not self.folder.exists()  # an existing folder may have files of the user
            self.folder.mkdir(exist_ok=True)
            lock = take_lock(self.folder / LOCK_FILE, self.out)
        try:
            yield
        finally:
            if not (self.folder / RUN_FILE).exists():  # the run did not start, or it is complete
                for path in [*self.folder.glob(".bulk-*"), *self.folder.glob("..bulk-*.tmp")]:
                    path.unlink(missing_ok=True)
                if created or not self.keeps_shards:
                    with suppress(OSError):  # the folder has other files
                        self.folder.rmdir()
            lock.release()

    def refuse_unknown_file(self, overwrite: bool) -> None:
        """Raise InputError, before models are loaded, if ``begin`` would refuse a file without record."""
        started = (self.folder / RUN_FILE).exists()
        if not (self.keeps_shards or started or overwrite) and self.out.exists():
            check_recorded(self.out)

    def begin(
        self, settings: dict[str, Any], shards: Shards, source: Source, overwrite: bool = False
    ) -> None:
        """Start the run, or find the finished file, or shards and saved rows, of an earlier one.

        A shard counts as unfinished if it is damaged or if one of its images changed. The scores of a run
        that is started over are removed once the first new ones are written.

        Args:
            settings: what the exact scores depend on.
            shards: the shards of the input.
            source: the input.
            overwrite: start over if the earlier run had other settings or is finished.

        Raises:
            InputError: the earlier run had other settings, or the output is not one of an earlier run, or
                was changed since that run was interrupted.

        Warns:
            StaleScoresWarning: shards are scored again; the warning names them and the reason.
        """
        self.shards, self.settings, self._replaced = shards, settings, self._out_digest()
        file = self.folder / RUN_FILE
        if file.exists():
            before, replaced = read_settings(file)
            changed = changed_settings(before, settings)
            if changed and not overwrite:
                raise InputError(
                    f"Cannot resume in '{self.folder}': it has a run with other settings or input: "
                    f"{changed}. Restore them, use another --out, or add --overwrite to start over."
                )
            if not changed:
                self._check_replaced(replaced, overwrite)
            self._remove_leftovers()
            if not changed:
                self.index.load()
                self._find_done()
                if not (overwrite and self.keeps_shards and len(self.done) == len(shards)):
                    self._find_parts(settings["batch_size"])
                    self._drop_changed(source)
                    return
                self.index.records.clear()
                self.done.clear()
                self.errors.clear()
            self._replaces_run = True
            return
        elif not self.keeps_shards and self.out.exists() and not overwrite:
            self.errors = Counter(finished_errors(self.out, settings, shards, source))
            self.done, self.is_joined = set(range(len(shards))), True
            return
        if unknown := shard_files(self.folder):
            raise InputError(
                f"Cannot write into '{self.folder}': it has '{unknown[0].name}' but no settings of a run to "
                "resume. Use an empty folder."
            )
        with self._writing():
            self._write_settings()

    def missing(self) -> list[int]:
        """Return the shards that are not finished."""
        return [shard for shard in range(len(self.shards)) if shard not in self.done]

    def write(self, shard: int, part: ShardPart) -> None:
        """Write a finished shard. Raise OutputError if the disk is full or not writable."""
        errors = Counter(row.kind or error_kind(row.error) for row in part.rows if row.error)
        with self._writing():
            with atomic_write(self._shard_path(shard)) as temporary:
                first = self.shards.range(shard).start
                write_rows_as(self.extension, part.rows, temporary, self.scorers, first)
                images = states_digest(part.image_states)
                self._discard_earlier()
                self.index.add(ShardRecord(shard, file_digest(temporary), images, dict(errors)))
            self._part_path(shard).unlink(missing_ok=True)
        self.done.add(shard)
        self.errors.update(errors)

    def has(self, shard: int) -> bool:
        """Return whether a shard is finished, even if ``write`` was interrupted before it recorded that."""
        if shard not in self.done and self._is_intact(shard):
            self.done.add(shard)
            self.errors.update(self.index.records[shard].errors)
        return shard in self.done

    def write_part(self, shard: int, part: ShardPart) -> None:
        """Save the scored rows of an unfinished shard. Raise OutputError."""
        with self._writing():
            self._discard_earlier()
            write_part(part, self._part_path(shard))

    def finish(self) -> None:
        """Join all shards to the output file and remove them; keep them if the output is a folder."""
        if self.keeps_shards or self.is_joined:
            return
        paths = [self._shard_path(shard) for shard in range(len(self.shards))]
        records = [self.index.records[shard] for shard in range(len(self.shards))]
        with self._writing(), atomic_write(self.out, beside=self.folder) as temporary:
            checked = [(path, record.sha256) for path, record in zip(paths, records)]
            join(checked, temporary, self.extension, self.scorers)
            # First, so that a run killed in between recognizes the output file as its own.
            write_record(self.out, file_digest(temporary), self.settings, records, dict(self.errors))
        # RUN_FILE is removed last, so that a run killed in between can still recognize the remaining shards.
        for path in paths:
            path.unlink()
        (self.folder / RUN_FILE).unlink()

    def _shard_path(self, shard: int) -> Path:
        return self.folder / self.shards.file_name(shard, self.extension)

    def _has_shard_name(self, path: Path) -> bool:
        """Return whether a path, or the file that it links to, is in the folder and named like a shard."""
        folder = self.folder.resolve()
        files = path.resolve(), path.parent.resolve() / path.name
        return any(file.parent == folder and FILE_NAME.fullmatch(file.name) for file in files)

    def _part_path(self, shard: int) -> Path:
        return self.folder / f"{PART_PREFIX}{self.shards.range(shard).start:012d}.jsonl"

    def _discard_earlier(self) -> None:
        """Remove the scores of the run that this one replaces, if they are not removed yet.

        The checksums are removed first, so that no run resumes with the remaining scores if this is
        interrupted, and the settings are replaced last, so that the folder always has those of a run.
        """
        if self._replaces_run:
            parts = self.folder.glob(f"{PART_PREFIX}*.jsonl")
            for path in [self.index.path, *parts, *shard_files(self.folder)]:
                path.unlink(missing_ok=True)
            self._write_settings()
            self._replaces_run = False

    def _write_settings(self) -> None:
        write_settings(self.folder / RUN_FILE, self.settings, self._replaced)

    def _out_digest(self) -> str | None:
        return None if self.keeps_shards or not self.out.is_file() else file_digest(self.out)

    def _check_replaced(self, replaced: str | None, overwrite: bool) -> None:
        """Raise InputError if the output file is neither the one that a run replaces nor its result.

        Args:
            replaced: checksum of the output file when the run began; None if there was none.
            overwrite: replace any file; later runs need no --overwrite for it.
        """
        current = self._replaced
        if current is None or current == replaced or is_result(self.out, current, self.settings):
            return
        if not overwrite:
            raise InputError(
                f"Cannot write '{self.out}': it was written by something else after the run that would be "
                f"resumed began. {ADVICE}."
            )
        with self._writing():
            self._write_settings()

    def _remove_leftovers(self) -> None:
        """Remove incomplete files of a killed run. Call it only if RUN_FILE shows that the folder is ours."""
        patterns = [".rows-*.tmp", "..bulk-*.tmp"]
        if not self.keeps_shards:  # the output file is joined in the folder
            patterns.append(glob.escape(f".{self.out.name[:50]}") + "*.tmp")
        for pattern in patterns:
            for leftover in self.folder.glob(pattern):
                leftover.unlink()

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
            # Whole batches only, so that the rest is computed in the same batches as without interruption.
            if 0 < len(part) < len(self.shards.range(shard)) and len(part) % batch_size == 0:
                self.parts[shard] = part
        self._warn(damaged, "it was changed after it was written")

    def _drop_changed(self, source: Source) -> None:
        """Discard the scores of images that changed after they were scored."""
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
        self._warn(names, "one or more of their images changed")

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
            path = error.filename or self.folder
            raise OutputError(
                f"Cannot write '{path}': {reason}. {len(self.done):,} finished shards are kept; run the same "
                "command again to resume."
            ) from error


def _reason(text: str) -> str:
    """Return the operating system's reason, taken out of pyarrow's message if necessary."""
    number = re.search(r"\[errno (\d+)\]", text)
    return os.strerror(int(number[1])) if number else text.split("\n")[0]
