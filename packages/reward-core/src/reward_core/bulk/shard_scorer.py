"""The scorer that every engine runs: shard numbers in, scored rows out, batch by batch."""

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
    """Some rows of a shard, in order.

    last: whether they end it. encoded: images the model looked at. cut: prompts longer than it reads.
    image_states: of each row's image, as it was when it was read (see image_states.py).
    """

    shard: int
    rows: list[ScoredRow]
    image_states: list[str]
    last: bool
    encoded: int = 0
    cut: int = 0


@dataclass
class _Begun:
    """A batch whose rewards the device may still be at work on."""

    batch: Batch
    image_states: list[str]
    errors: dict[int, str] = field(default_factory=dict)
    scored: list[int] = field(default_factory=list)
    rewards: Tensor | None = None
    encoded: int = 0
    cut: int = 0


class ShardScorer:
    """Scores shards of one source with one model.

    Args:
        cache: images whose features are kept from batch to batch within a shard. What is kept follows
            from the rows alone (see recent.py).
        threads: that open images.
        scored_rows: by shard, how many of its first rows are scored already: whole batches.
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

    def score(self, wanted: Iterable[int]) -> Iterator[ScoredBatch]:
        """The batches of the wanted shards, one shard after the other."""
        batches = ImagesAhead(
            self.source,
            self.shards,
            wanted,
            self.batch_size,
            self.cache,
            self._open,
            self.threads,
            self.scored_rows,
        )
        before: _Begun | None = None
        for batch in batches:
            if batch.first:
                self.encoded, self.states = LRUCache(self.cache), {}
            if batch.scored:
                self._restore(batch)
                continue
            begun = self._begin(batch)
            if before is not None:  # by now a GPU has the next batch to work on
                yield _finished(before)
            before = begun
        if before is not None:
            yield _finished(before)

    @torch.no_grad()
    def _begin(self, batch: Batch) -> _Begun:
        self._encode_new_images(batch)
        begun = _Begun(batch, [self._state(row, key) for row, key in zip(batch.rows, batch.keys)])
        begun.encoded, self.newly_encoded = self.newly_encoded, 0
        prompts: list[str] = []
        seen: list[Tensor] = []
        for i, (row, key) in enumerate(zip(batch.rows, batch.keys)):
            known = row.error if key is None else self.encoded[key]
            if isinstance(known, str):
                begun.errors[i] = known
            else:
                assert known is not None  # the features of a row without an error
                assert row.prompt is not None
                begun.scored.append(i)
                prompts.append(row.prompt)
                seen.append(known)
        if seen:
            begun.rewards, begun.cut = self.batch_scorer.rewards(prompts, seen)
        self.encoded.used(batch.images())
        return begun

    @torch.no_grad()
    def _restore(self, batch: Batch) -> None:
        """Bring the cache to where it was after a batch that an earlier run scored.

        What later batches use is encoded again, in the same batches, so that it has the same bits.
        """
        self._encode_new_images(batch)
        images = batch.images()
        for key in self.encoded.absent(images):
            self.encoded[key] = None  # no later batch of the shard uses it
        self.encoded.used(images)

    def _open(self, row: InputRow) -> tuple[str, Tensor | str]:
        """An image's state, and its pixels or what is wrong with it. Called by several threads at once."""
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
            self.states[key], found = opening.result()
            if isinstance(found, str):
                self.encoded[key] = found
            else:
                pixels[key] = found
        if pixels:
            features = self.batch_scorer.features(list(pixels.values()))
            for key, own in zip(pixels, features):
                # A copy: a part would keep the whole batch in memory for as long as it is remembered.
                self.encoded[key] = own.clone()
        self.newly_encoded += len(pixels)


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
    batch = begun.batch
    return ScoredBatch(batch.shard, rows, begun.image_states, batch.last, begun.encoded, begun.cut)
