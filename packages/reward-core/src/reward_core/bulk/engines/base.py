"""What the engines have in common."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import PromptTruncatedWarning
from ...models.load import load
from ...scoring.scoring_model import ScoringModel
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch, ShardScorer
from ..shards import Shards
from ..sources import Source


@dataclass(frozen=True)
class Work:
    """What another process needs to know to score shards.

    scored_rows: by shard, how many of its first rows an earlier run has scored: whole batches.
    """

    settings: BulkSettings
    source: Source
    shards: Shards
    batch_size: int
    scored_rows: Mapping[int, int] = field(default_factory=dict)

    def scorer(self, model: ScoringModel, threads: int | None = None) -> ShardScorer:
        threads = self.settings.threads or threads
        return ShardScorer(
            model,
            self.source,
            self.shards,
            self.batch_size,
            self.settings.cache,
            threads,
            self.scored_rows,
        )

    def load_scorer(self, device: str, threads: int | None = None) -> ShardScorer:
        """In a process of its own: the same with a model of its own."""
        # How many prompts were cut is counted instead; a line for each would be millions.
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        return self.scorer(load(self.settings.model, device, precision=self.settings.precision), threads)


class Engine(ABC):
    """A context within which shards can be scored."""

    #: "cpu", "cuda" or "mps": scores have other last bits on another kind of device.
    device_type: str

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - nothing to do is usual
        """Give back what ``__enter__`` took."""

    def model(self) -> ScoringModel | None:
        """The model, where it is loaded in this process."""
        return None

    @abstractmethod
    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        """Each shard's batches in order; those of different shards in any order."""


def local_model(name: str) -> str:
    """A model's name as other processes find it, whatever folder they run in."""
    return os.path.abspath(name) if os.path.exists(name) else name
