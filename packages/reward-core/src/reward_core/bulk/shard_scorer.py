"""Score shards batch by batch; all engines use this scorer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..files.score_file import ScoredRow
from ..inputs.decode_ahead import MOST_THREADS, DecodedImage, decoded_by
from ..inputs.image_file import state_text
from ..runs.cpus import usable_cpus
from ..scoring.decoders import decoding, preparation
from ..scoring.pipeline import BatchResult, Pipeline
from ..scoring.scoring_model import ScoringModel
from .images_ahead import ImagesAhead, RowBatch
from .input_row import InputRow
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


class ShardScorer:
    """Score shards of one source with one model.

    Args:
        model: the scoring model.
        source: the input.
        shards: its division into shards.
        batch_size: rows per batch.
        cache: number of images whose features are kept between batches of a shard (see
            scoring/lru_cache.py).
        threads: number of threads or processes that decode images (default: the number of CPUs, at most 32;
            one CPU fewer for processes).
        decoders: "auto", "threads" or "processes".
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.
        reproducible: do not compile the model, so that a resumed run computes the same values as an
            uninterrupted one.
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
        reproducible: bool = False,
        decoders: str = "auto",
    ):
        self.model, self.source, self.shards, self.scored_rows = model, source, shards, scored_rows
        self.batch_size, self.cache = batch_size, cache
        self.threads, self.decoders = threads, decoders
        self.path = model.path(reproducible)
        self.prepare = preparation(model)
        self.states: dict[Hashable, str] = {}

    def score(self, shards: Iterable[int]) -> Iterator[ScoredBatch]:
        """Yield the scored batches of shards, one shard after the other."""
        pipeline: Pipeline[RowBatch] = Pipeline(
            self.model, self.path, self._rewards, cache=self.cache, keep_errors=True, warn_once=True
        )
        with decoding(
            self.model,
            self._decode,
            _as_file,
            self._rows(shards),
            self.batch_size,
            decoders=self.decoders,
            workers=self.threads,
            threads=min(MOST_THREADS, usable_cpus()),
        ) as submit:
            batches = ImagesAhead(
                self.source, self.shards, shards, self.batch_size, self.cache, submit, self.scored_rows
            )
            for result in pipeline.run(self._started(batches, pipeline)):
                yield self._scored(result)

    def _rows(self, shards: Iterable[int]) -> int:
        """Return the number of rows of shards, or of all shards if their numbers arrive one by one."""
        if not isinstance(shards, Sequence):
            return self.shards.rows
        return sum(len(self.shards.range(shard)) for shard in shards)

    def _decode(self, row: InputRow) -> DecodedImage:
        state = state_text(row.content)  # before the file is read
        return decoded_by(row.open, row.image, self.prepare, state)

    def _started(self, batches: Iterable[RowBatch], pipeline: Pipeline[RowBatch]) -> Iterator[RowBatch]:
        """Yield batches and record the state of their images when they are computed."""
        for batch in batches:
            if batch.first:
                pipeline.clear_cache()
                self.states = {}
            for key, pending in batch.opening.items():
                self.states[key] = pending.result().state
            batch.states = [
                state_text(row.content) if key is None else self.states.get(key, "")
                for row, key in zip(batch.rows, batch.keys)
            ]
            yield batch

    def _rewards(self, features: Tensor, batch: RowBatch, rows: list[int]) -> Tensor:
        """Return the rewards (R,) of rows with image features (R, ...)."""
        prompts = [batch.rows[i].prompt or "" for i in rows]
        tokenizer = self.model.tokenizer
        token_ids, mask = tokenizer(prompts)
        lengths = mask.sum(1).tolist()
        full = [row for row, length in zip(rows, lengths) if length == tokenizer.max_length]
        batch.cut.update(row for row in full if tokenizer.dropped_words(batch.rows[row].prompt or ""))
        return self.path.pair_rewards(features, token_ids, mask).float()

    def _scored(self, result: BatchResult[RowBatch]) -> ScoredBatch:
        batch = result.batch
        scores: dict[int, float] = {}
        if result.values is not None:
            scores = dict(zip(result.rows, result.values.tolist()))
        rows = []
        for i, row in enumerate(batch.rows):
            unreadable = result.errors.get(i)
            score, error = scores.get(i), row.error if unreadable is None else unreadable.reason
            if score is not None and not math.isfinite(score):
                score, error = None, f"the reward is not a finite number: {score}"
            rows.append(ScoredRow(row.prompt, row.image, score, error))
        return ScoredBatch(batch.shard, rows, batch.states, batch.last, result.encoded, len(batch.cut))


def _as_file(row: InputRow) -> tuple[str | bytes, str]:
    assert row.content is not None  # rows without content have an error and are not opened
    return row.content, row.image
