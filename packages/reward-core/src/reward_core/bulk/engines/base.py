"""The base class of the engines and the description of their work."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import PromptTruncatedWarning
from ...inputs.decode_ahead import MOST_THREADS
from ...models.judges.judge import Judge
from ...models.load import load
from ...scoring.device import Device
from ...scoring.scorer_group import ScorerGroup
from ..row_scorer import RowScorer
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch, ShardScorer
from ..shards import Shards
from ..sources import Source

# Batches that a worker reads, computes and sends while it waits for its next shard.
BATCHES_AHEAD = 8


@dataclass(frozen=True)
class Work:
    """Everything that a process needs to score shards.

    Attributes:
        settings: the run's settings.
        source: the input.
        shards: its division into shards.
        batch_size: rows per batch.
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.
    """

    settings: BulkSettings
    source: Source
    shards: Shards
    batch_size: int
    scored_rows: Mapping[int, int] = field(default_factory=dict)

    def shards_at_once(self) -> int:
        """Return how many shards a worker has at a time: the one that it computes, and BATCHES_AHEAD."""
        batches = -(-self.shards.size // self.batch_size)
        return 1 + -(-BATCHES_AHEAD // batches)

    def scorer(self, group: ScorerGroup, threads: int | None = None) -> ShardScorer | RowScorer:
        """Return a scorer for loaded models."""
        (name, first), *more = group.scorers.items()
        if isinstance(first, Judge) and not more:
            questions, scored_rows = self.settings.batch_size, self.scored_rows
            return RowScorer(name, first, self.source, self.shards, self.batch_size, questions, scored_rows)
        return self.shard_scorer(group, threads)

    def shard_scorer(self, group: ScorerGroup, threads: int | None = None) -> ShardScorer:
        """Return a scorer for loaded scoring models.

        Args:
            group: the models.
            threads: CPUs for decoding images, unless the settings have a number of threads.
        """
        threads = self.settings.threads or (threads and min(threads, MOST_THREADS))
        return ShardScorer(
            group,
            self.source,
            self.shards,
            self.batch_size,
            self.settings.cache,
            threads,
            self.scored_rows,
            self.settings.reproducible,
            self.settings.decoders,
        )

    def load_scorer(self, device: str, threads: int | None = None) -> ShardScorer | RowScorer:
        """Load the models on a device and return a scorer. Call it in a worker process."""
        # Truncated prompts are counted; a warning for each would be millions of lines.
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        return self.scorer(load_models(self.settings, device), threads)


def load_models(settings: BulkSettings, device: Device) -> ScorerGroup:
    """Load the models of a run."""
    judge = vars(settings.judge)
    return load(settings.models, device, files=settings.files, precision=settings.precision, **judge)


class Engine(ABC):
    """A context manager that scores shards."""

    #: "cpu", "cuda" or "mps". Scores round differently on another type of device.
    device_type: str

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - most engines have nothing to release
        """Release the resources of the engine."""

    @abstractmethod
    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        """Yield scored batches: those of one shard in order, those of different shards in any order."""


def local_model(name: str) -> str:
    """Make the path of a local model absolute, for processes with another working directory."""
    return os.path.abspath(name) if os.path.exists(name) else name
