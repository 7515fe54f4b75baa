"""Score shards batch by batch; all engines use this scorer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ImageError
from ..files.score_file import ScoredRow
from ..scoring.scoring_model import ScoringModel
from .batch_scorer import BatchScorer
from .image_states import image_state
from .images_ahead import Batch, ImagesAhead
from .input_row import InputRow, Key
from .lru_cache import LRUCache
from .shards import Shards
from .sources import Source


@dataclass
class ScoredBatch:
    """The scored rows of one batch.

    Attributes:
        shard: number of the shard.
        rows: consecutive rows of the shard.
        image_states: state of each row's image when it was read (see image_states.py).
        last: whether this is the last batch of the shard.
        encoded: number of images that were encoded.
        cut: number of prompts that were truncated.
    """

    shard: int
    rows: list[ScoredRow]
    image_states: list[str]
    last: bool
    encoded: int = 0
    cut: int = 0


@dataclass
class _Pending:
    """A batch whose rewards the device may still be computing."""

    batch: Batch
    image_states: list[str]
    errors: dict[int, str] = field(default_factory=dict)
    scored: list[int] = field(default_factory=list)
    rewards: Tensor | None = None
    encoded: int = 0
    cut: int = 0


class ShardScorer:
    """Score shards of one source with one model.

    Args:
        model: the scoring model.
        source: the input.
        shards: its division into shards.
        batch_size: rows per batch.
        cache: number of images whose features are kept between batches of a shard (see lru_cache.py).
        threads: number of threads that open images.
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.
    """

    def __init__(
        self,
        model: ScoringModel,
        source: Source,
        shards: Shards,
        batch_size: int,
        cache: int,
        threads: int | None = None,
        scored_rows: Mapping[int, int] | None = None,
    ):
        self.scored_rows = scored_rows
        self.source, self.shards = source, shards
        self.batch_size, self.cache, self.threads = batch_size, cache, threads
        self.batch_scorer = BatchScorer(model, batch_size)
        self.encoded: LRUCache[Key, Tensor | str | None] = LRUCache(cache)
        self.states: dict[Key, str] = {}
        self.newly_encoded = 0

    def score(self, shards: Iterable[int]) -> Iterator[ScoredBatch]:
        """Yield the scored batches of shards, one shard after the other."""
        batches = ImagesAhead(
            self.source,
            self.shards,
            shards,
            self.batch_size,
            self.cache,
            self._open,
            self.threads,
            self.scored_rows,
        )
        previous: _Pending | None = None
        for batch in batches:
            if batch.first:
                self.encoded, self.states = LRUCache(self.cache), {}
            if batch.scored:
                self._restore(batch)
                continue
            pending = self._begin(batch)
            if previous is not None:  # the GPU computes the next batch in the meantime
                yield _finished(previous)
            previous = pending
        if previous is not None:
            yield _finished(previous)

    @torch.no_grad()
    def _begin(self, batch: Batch) -> _Pending:
        self._encode_new_images(batch)
        pending = _Pending(batch, [self._state(row, key) for row, key in zip(batch.rows, batch.keys)])
        pending.encoded, self.newly_encoded = self.newly_encoded, 0
        prompts: list[str] = []
        features: list[Tensor] = []
        for i, (row, key) in enumerate(zip(batch.rows, batch.keys)):
            result = row.error if key is None else self.encoded[key]
            if isinstance(result, str):
                pending.errors[i] = result
            else:
                assert result is not None  # a row without an error has features
                assert row.prompt is not None
                pending.scored.append(i)
                prompts.append(row.prompt)
                features.append(result)
        if features:
            pending.rewards, pending.cut = self.batch_scorer.rewards(prompts, features)
        self.encoded.used(batch.images())
        return pending

    @torch.no_grad()
    def _restore(self, batch: Batch) -> None:
        """Restore the cache to its state after a batch that an earlier run scored.

        Images that later batches use are encoded again in the same batches, so that their features round
        the same way.
        """
        self._encode_new_images(batch)
        images = batch.images()
        for key in self.encoded.absent(images):
            self.encoded[key] = None  # no later batch of the shard uses it
        self.encoded.used(images)

    def _open(self, row: InputRow) -> tuple[str, Tensor | str]:
        """Return an image's state, and its pixels or error. Several threads call it at once."""
        state = image_state(row.content)
        try:
            return state, self.batch_scorer.open(row)
        except ImageError as error:
            return state, error.reason

    def _state(self, row: InputRow, key: Key | None) -> str:
        return image_state(row.content) if key is None else self.states[key]

    def _encode_new_images(self, batch: Batch) -> None:
        pixels: dict[Key, Tensor] = {}
        for key, opening in batch.opening.items():
            self.states[key], result = opening.result()
            if isinstance(result, str):
                self.encoded[key] = result
            else:
                pixels[key] = result
        if pixels:
            features = self.batch_scorer.features(list(pixels.values()))
            for key, image_features in zip(pixels, features):
                # Cloned, because a view would keep the whole batch in memory as long as it is cached.
                self.encoded[key] = image_features.clone()
        self.newly_encoded += len(pixels)


def _finished(pending: _Pending) -> ScoredBatch:
    scores: dict[int, float] = {}
    if pending.rewards is not None:
        scores = dict(zip(pending.scored, pending.rewards.cpu().tolist()))
    rows = []
    for i, row in enumerate(pending.batch.rows):
        score, error = scores.get(i), pending.errors.get(i)
        if score is not None and not math.isfinite(score):
            score, error = None, f"the reward is not a finite number: {score}"
        rows.append(ScoredRow(row.prompt, row.image, score, error))
    batch = pending.batch
    return ScoredBatch(batch.shard, rows, pending.image_states, batch.last, pending.encoded, pending.cut)
