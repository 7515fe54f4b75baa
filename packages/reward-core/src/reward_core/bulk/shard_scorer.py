"""The scorer that every engine runs: shard numbers in, scored rows out, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ImageError
from ..scorer import ScoredRow, ScoringModel
from .compute import Computer
from .input_row import Key
from .pictures_ahead import Batch, PicturesAhead
from .recent import Recent
from .shards import Shards
from .sources import Source


@dataclass
class ScoredBatch:
    """Some rows of a shard, in order.

    last: whether they end it. encoded: pictures the model looked at. cut: prompts longer than it reads.
    """

    shard: int
    rows: list[ScoredRow]
    last: bool
    encoded: int = 0
    cut: int = 0


@dataclass
class _Begun:
    """A batch whose rewards the device may still be at work on."""

    batch: Batch
    errors: dict[int, str] = field(default_factory=dict)
    scored: list[int] = field(default_factory=list)
    rewards: Tensor | None = None
    encoded: int = 0
    cut: int = 0


class ShardScorer:
    """Scores shards of one source with one model.

    Args:
        cache: pictures whose features are kept from batch to batch within a shard. What is kept follows
            from the rows alone (see recent.py).
        threads: that open pictures.
    """

    def __init__(
        self,
        model: ScoringModel,
        source: Source,
        shards: Shards,
        batch_size: int,
        cache: int,
        threads: int | None = None,
    ):
        self.source, self.shards = source, shards
        self.batch_size, self.cache, self.threads = batch_size, cache, threads
        self.computer = Computer(model, batch_size)
        self.recent: Recent[Key, Tensor | str] = Recent(cache)

    def score(self, wanted: Iterable[int]) -> Iterator[ScoredBatch]:
        """The batches of the wanted shards, one shard after the other."""
        batches = PicturesAhead(
            self.source, self.shards, wanted, self.batch_size, self.cache, self.computer.open, self.threads
        )
        before: _Begun | None = None
        for batch in batches:
            begun = self._begin(batch)
            if before is not None:  # by now a GPU has the next batch to work on
                yield _finished(before)
            before = begun
        if before is not None:
            yield _finished(before)

    @torch.no_grad()
    def _begin(self, batch: Batch) -> _Begun:
        if batch.first:
            self.recent = Recent(self.cache)
        begun = _Begun(batch)
        self._look_at_new_pictures(batch, begun)
        seen = []
        for i, (row, key) in enumerate(zip(batch.rows, batch.keys)):
            known = row.error if key is None else self.recent[key]
            if isinstance(known, str):
                begun.errors[i] = known
            else:
                begun.scored.append(i)
                seen.append(known)
        if seen:
            prompts = [batch.rows[i].prompt for i in begun.scored]
            begun.rewards, begun.cut = self.computer.rewards(prompts, seen)
        self.recent.used(batch.pictures())
        return begun

    def _look_at_new_pictures(self, batch: Batch, begun: _Begun) -> None:
        pixels: dict[Key, Tensor] = {}
        for key, opening in batch.opening.items():
            found = _pixels(opening)
            if isinstance(found, str):
                self.recent[key] = found
            else:
                pixels[key] = found
        if pixels:
            features = self.computer.features(list(pixels.values()))
            for key, own in zip(pixels, features):
                # A copy: a part would keep the whole batch in memory for as long as it is remembered.
                self.recent[key] = own.clone()
        begun.encoded = len(pixels)


def _pixels(opening: Future) -> Tensor | str:
    try:
        return opening.result()
    except ImageError as error:
        return error.reason


def _finished(begun: _Begun) -> ScoredBatch:
    scores: dict[int, float] = {}
    if begun.rewards is not None:
        scores = dict(zip(begun.scored, begun.rewards.cpu().tolist()))
    rows = []
    for i, row in enumerate(begun.batch.rows):
        score, error = scores.get(i), begun.errors.get(i)
        if score is not None and not math.isfinite(score):
            score, error = None, f"the reward is not a finite number: {score}"
        rows.append(ScoredRow(row.prompt, row.image, score, error))
    return ScoredBatch(begun.batch.shard, rows, begun.batch.last, begun.encoded, begun.cut)
