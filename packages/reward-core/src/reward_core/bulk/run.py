"""The whole of a bulk run, whatever computes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from ..load import load
from ..precision import encoder_dtype
from ..scorer import ScoredRow
from .compute import weights_digest
from .engines import Engine, Work, engine_for
from .settings import BulkSettings
from .shard_scorer import ScoredBatch
from .shards import Shards
from .sources import SourceSpec
from .summary import BulkSummary
from .target import Target

#: Told of progress: all rows of the input, rows done, rows among them that failed.
OnProgress = Callable[[int, int, int], None]


def score_to_file(
    source: SourceSpec,
    out: str | os.PathLike[str],
    settings: BulkSettings | None = None,
    *,
    file_format: str | None = None,
    on_progress: OnProgress | None = None,
) -> BulkSummary:
    """Score every row of a source; a run that was stopped in any way goes on where it was.

    The output has the columns row, prompt, image, score and error, one row for each of the source's, in its
    order. A row that cannot be scored has an error instead.

    Args:
        source: Manifest, PictureFolder, Tars or HubDataset.
        out: a .csv, .jsonl or .parquet; or a folder that is to hold shards.
        file_format: of the shards in a folder: "csv", "jsonl" or "parquet" (the default).
        on_progress: called after every batch with (rows of the input, rows done, rows failed).

    Raises:
        InputError: input, settings, or an earlier run with other ones. OutputError: a target that another run
        is at work on, or that cannot be written; what is done is kept.
    """
    started = perf_counter()
    settings = settings or BulkSettings()
    target, engine = Target(out, file_format), engine_for(settings)
    target.spare(source.files())
    with target.locked():
        opened = source.open(target.folder)
        with engine:
            shards = Shards(opened.rows, settings.shard_rows)
            size = settings.batch_size or (8 if engine.device_type == "cpu" else 64)
            work = Work(settings, opened, shards, size)
            target.begin({"format": target.extension[1:], **_fingerprint(work, engine)}, shards)
            counter = _Counter(opened.rows, target, on_progress)
            scoring = perf_counter()
            missing = target.missing()
            for batch in engine.batches(work, missing) if missing else ():
                counter.take(batch)
            scored_for = perf_counter() - scoring
        target.finish()
    failed = sum(target.errors.values())
    return BulkSummary(
        out=str(out),
        rows=opened.rows,
        scored=opened.rows - failed,
        failed=failed,
        errors=dict(target.errors.most_common()),
        resumed_rows=counter.resumed,
        pictures_encoded=counter.encoded,
        prompts_cut=counter.cut,
        seconds=round(perf_counter() - started, 3),
        rows_per_second=round((opened.rows - counter.resumed) / max(scored_for, 1e-9), 3),
    )


class _Counter:
    """Gathers batches to shards, writes these, and tells how far the run is."""

    def __init__(self, rows: int, target: Target, on_progress: OnProgress | None):
        self.rows, self.target, self.on_progress = rows, target, on_progress
        self.parts: dict[int, list[ScoredRow]] = {}
        self.resumed = self.done = sum(len(target.shards.range(shard)) for shard in target.done)
        self.failed = sum(target.errors.values())
        self.encoded = self.cut = 0
        self.tell()

    def take(self, batch: ScoredBatch) -> None:
        rows = self.parts.setdefault(batch.shard, [])
        rows += batch.rows
        if batch.last:
            self.target.write(batch.shard, self.parts.pop(batch.shard))
        self.encoded += batch.encoded
        self.cut += batch.cut
        self.done += len(batch.rows)
        self.failed += sum(row.error is not None for row in batch.rows)
        self.tell()

    def tell(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.rows, self.done, self.failed)


def _fingerprint(work: Work, engine: Engine) -> dict[str, Any]:
    """All that a score depends on, to its last bit; for JSON."""
    from .. import __version__

    settings = work.settings
    dtype = encoder_dtype(settings.precision, torch.device(engine.device_type))
    exact = engine.model() if dtype == torch.float32 else None
    return {
        "version": __version__,
        "input": work.source.fingerprint(),
        "model": weights_digest(exact or load(settings.model, device="cpu")),
        "device": engine.device_type,
        "numbers": str(dtype).removeprefix("torch."),
        "batch_size": work.batch_size,
        "shard_rows": settings.shard_rows,
        "cache": settings.cache,
    }
