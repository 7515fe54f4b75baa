"""Score on one device in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import replace

from ...runs.cpus import usable_cpus
from ...scoring.device import usable_device
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch, ShardScorer
from .base import Engine, Work, load_models
from .shard_threads import scored_in_threads, shard_threads


class OneDevice(Engine):
    def __init__(self, settings: BulkSettings):
        self.settings = settings
        self.device = usable_device(settings.devices[0] if settings.devices else None)
        self.device_type = self.device.type
        self._running = ExitStack()

    def __enter__(self) -> OneDevice:
        self._group = load_models(self.settings, self.device)
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        scorer = work.scorer(self._group)
        threads = shard_threads(self._group, len(work.shards))
        if threads == 1 or not isinstance(scorer, ShardScorer):
            return scorer.score(shards)
        return self._running.enter_context(closing(scored_in_threads(self._scorers(work, threads), shards)))

    def _scorers(self, work: Work, threads: int) -> list[ShardScorer]:
        """Return a scorer for each thread. They share the models and have their own sources."""
        decoding = max(1, usable_cpus() // threads)
        works = (replace(work, source=copy(work.source)) for _ in range(threads))
        return [work.shard_scorer(self._group, decoding) for work in works]
