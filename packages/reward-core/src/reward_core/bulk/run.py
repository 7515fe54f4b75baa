"""Run bulk scoring with any engine: read rows, score them, write shards, join them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from ..errors import OutputError, RunInterrupted
from ..models.load import model_digest
from ..models.scorer_names import scorer_names
from ..scoring.precision import number_format
from .engines import Engine, Work, engine_for
from .run_settings import MODEL_NAME
from .settings import BulkSettings
from .shard_part import ShardPart
from .shard_scorer import ScoredBatch
from .shards import Shards
from .sources import SourceSpec
from .summary import BulkSummary
from .target import Target

#: Progress callback: (rows of the input, rows done, rows done with an error).
OnProgress = Callable[[int, int, int], None]


def score_to_file(
    source: SourceSpec,
    out: str | os.PathLike[str],
    settings: BulkSettings | None = None,
    *,
    file_format: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> BulkSummary:
    """Score every row of a source and write the scores. An interrupted run resumes, a finished one is kept.

    The output has the columns row, prompt, image, score and error and one row per input row, in the same
    order. With several models, each has a column with its name instead of "score". A row that cannot be
    scored has an error instead of scores.

    Args:
        source: Manifest, ImageFolder, Tars or HubDataset.
        out: a .csv, .jsonl or .parquet file, or a folder for shards.
        settings: models, devices and batch sizes; None for the defaults.
        file_format: format of the shards in a folder: "csv", "jsonl" or "parquet" (default).
        overwrite: start over if the output is finished, or has a run with other settings or input.
        on_progress: called after every batch with (rows of the input, rows done, rows failed).

    Returns:
        Counts of the run.

    Raises:
        InputError: invalid input or settings, or the target has a run with other ones, or a file of
            something else.
        OutputError: another run is using the target, or it cannot be written; finished shards are kept.
        RunInterrupted: a KeyboardInterrupt while rows were scored or joined; scored rows are saved.
    """
    started = perf_counter()
    settings = settings or BulkSettings()
    names = scorer_names(settings.models)
    target, engine = Target(out, names, file_format), engine_for(settings)
    target.refuse_input_overwrite(source.files(), overwrite)
    with target.locked():
        target.refuse_unknown_file(overwrite)
        opened = source.open(target.folder)
        with engine:
            shards = Shards(opened.rows, settings.shard_rows)
            size = settings.batch_size or (8 if engine.device_type == "cpu" else 64)
            work = Work(settings, opened, shards, size)
            fingerprint = {"format": target.extension[1:], **_fingerprint(work, engine)}
            target.begin(fingerprint, shards, opened, overwrite)
            work = replace(work, scored_rows={shard: len(part) for shard, part in target.parts.items()})
            writer = _Writer(opened.rows, size, settings.save_seconds, target, on_progress)
            scoring = perf_counter()
            try:
                missing = target.missing()
                for batch in engine.batches(work, missing) if missing else ():
                    writer.take(batch)
            except KeyboardInterrupt as interrupt:
                raise RunInterrupted(writer.save(), opened.rows) from interrupt
            except OutputError:
                raise  # saving would fail too
            except BaseException:
                with suppress(OutputError):  # the original error matters more
                    writer.save()
                raise
            scored_for = perf_counter() - scoring
        try:
            target.finish()
        except KeyboardInterrupt as interrupt:
            raise RunInterrupted(opened.rows, opened.rows) from interrupt
    failed = sum(target.errors.values())
    return BulkSummary(
        out=str(out),
        rows=opened.rows,
        scored=opened.rows - failed,
        failed=failed,
        errors=dict(target.errors.most_common()),
        resumed_rows=writer.resumed,
        pictures_encoded=writer.encoded,
        prompts_cut=writer.cut,
        extra_images=opened.extra_images,
        seconds=round(perf_counter() - started, 3),
        rows_per_second=round((opened.rows - writer.resumed) / max(scored_for, 1e-9), 3),
    )


class _Writer:
    """Collect batches into shards, write the shards, save unfinished ones periodically, report progress."""

    def __init__(
        self, rows: int, batch_size: int, save_seconds: float, target: Target, on_progress: OnProgress | None
    ):
        self.rows, self.batch_size, self.target, self.on_progress = rows, batch_size, target, on_progress
        self.save_seconds, self.last_save = save_seconds, perf_counter()
        self.parts = dict(target.parts)
        self.saved = {shard: len(part) for shard, part in self.parts.items()}
        self.resumed = self.done = self._rows_written() + sum(self.saved.values())
        in_parts = sum(row.error is not None for part in self.parts.values() for row in part.rows)
        self.failed = sum(target.errors.values()) + in_parts
        self.encoded = self.cut = 0
        self.report()

    def take(self, batch: ScoredBatch) -> None:
        part = self.parts.setdefault(batch.shard, ShardPart())
        part.image_states += batch.image_states
        part.rows += batch.rows
        if batch.last:
            self.target.write(batch.shard, part)
            del self.parts[batch.shard]
        elif perf_counter() - self.last_save >= self.save_seconds:
            self.save()
        self.encoded += batch.encoded
        self.cut += batch.cut
        self.done += len(batch.rows)
        self.failed += sum(row.error is not None for row in batch.rows)
        self.report()

    def save(self) -> int:
        """Save the unfinished shards; return the number of rows saved in total. Raise OutputError."""
        for shard, part in self.parts.items():
            # Whole batches without the shard's last one, so that a resumed run computes the same batches.
            rows = min(len(part), len(self.target.shards.range(shard)) - 1)
            count = rows // self.batch_size * self.batch_size
            if not self.target.has(shard) and count > self.saved.get(shard, 0):
                self.target.write_part(shard, part.first(count))
                self.saved[shard] = count
        self.last_save = perf_counter()
        return self._rows_written() + sum(n for s, n in self.saved.items() if s not in self.target.done)

    def _rows_written(self) -> int:
        return sum(len(self.target.shards.range(shard)) for shard in self.target.done)

    def report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.rows, self.done, self.failed)


def _fingerprint(work: Work, engine: Engine) -> dict[str, Any]:
    """Return everything that the scores depend on, as values for JSON."""
    from .. import __version__

    settings = work.settings
    names = scorer_names(settings.models)
    return {
        "version": __version__,
        "input": work.source.fingerprint(),
        "model": _digest(settings),
        **({MODEL_NAME: names[0]} if len(names) == 1 else {}),
        "device": engine.device_type,
        "numbers": number_format(settings.precision, torch.device(engine.device_type)),
        "reproducible": settings.reproducible,
        "batch_size": work.batch_size,
        "shard_rows": settings.shard_rows,
        "cache": settings.cache,
    }


def _digest(settings: BulkSettings) -> str | dict[str, str]:
    """Return the digest of the model, or of each of several models by name."""
    digests = [model_digest(model, settings.judge, settings.files) for model in settings.models]
    return digests[0] if len(digests) == 1 else dict(zip(scorer_names(settings.models), digests))
