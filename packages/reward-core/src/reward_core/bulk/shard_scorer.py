"""Score shards batch by batch with one or more scorers; all engines use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..files.score_file import GroupRow, joined_error
from ..inputs.decode_ahead import MOST_THREADS, DecodedImage, decoded_by
from ..inputs.image_file import state_text
from ..runs.cpus import usable_cpus
from ..scoring.decoders import decoding
from ..scoring.lanes import Lane, by_name, refresh_others
from ..scoring.pipeline import BatchResult, Pipeline
from ..scoring.scorer_group import ScorerGroup
from ..scoring.shared_decoding import Preparations, run_together
from .images_ahead import ImagesAhead, RowBatch
from .input_row import InputRow, error_kind
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
    rows: list[GroupRow]
    image_states: list[str]
    last: bool
    encoded: int = 0
    cut: int = 0


class ShardScorer:
    """Score shards of one source.

    Args:
        group: the scorers.
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
        group: ScorerGroup,
        source: Source,
        shards: Shards,
        batch_size: int,
        cache: int,
        threads: int | None = None,
        scored_rows: Mapping[int, int] | None = None,
        reproducible: bool = False,
        decoders: str = "auto",
    ):
        self.group, self.source, self.shards, self.scored_rows = group, source, shards, scored_rows
        self.batch_size, self.cache = batch_size, cache
        self.threads, self.decoders = threads, decoders
        if group.others:
            raise InputError(
                f"Cannot use {next(iter(group.others))!r} in a bulk run: it is not a scoring model. Score "
                "with --prompts, or with score_rows."
            )
        self.lanes = group.lanes()
        self.paths = {name: model.path(reproducible) for name, model in group.models.items()}
        self.preparations = Preparations([lane.encoder for lane in self.lanes])
        self.states: dict[Hashable, str] = {}

    def score(self, shards: Iterable[int]) -> Iterator[ScoredBatch]:
        """Yield the scored batches of shards, one shard after the other.

        An iterator may wait for scored batches before it returns the next shard.
        """
        refresh_others(self.lanes, self.paths)
        pipelines: list[Pipeline[RowBatch]] = [
            Pipeline(
                lane.encoder,
                self.paths[lane.names[0]],
                self._rewards_of(lane),
                cache=self.cache,
                keep_errors=True,
                warn_once=True,
            )
            for lane in self.lanes
        ]
        with decoding(
            self.lanes[0].encoder,
            self._decode,
            _as_file,
            self._rows(shards),
            self.batch_size,
            decoders=self.decoders,
            workers=self.threads,
            threads=min(MOST_THREADS, usable_cpus()),
            preparations=len(self.preparations.functions),
        ) as submit:
            batches = ImagesAhead(
                self.source, self.shards, shards, self.batch_size, self.cache, submit, self.scored_rows
            )
            for results in run_together(pipelines, self._started(batches), batches.ready):
                yield self._scored(results)

    def _rows(self, shards: Iterable[int]) -> int:
        """Return the number of rows of shards, or of all shards if their numbers arrive one by one."""
        if not isinstance(shards, Sequence):
            return self.shards.rows
        return sum(len(self.shards.range(shard)) for shard in shards)

    def _decode(self, row: InputRow) -> DecodedImage:
        state = state_text(row.content)  # before the file is read
        prepare, *others = self.preparations.functions
        return decoded_by(row.open, row.image, prepare, state, others)

    def _started(self, batches: Iterable[RowBatch]) -> Iterator[list[RowBatch]]:
        """Yield a batch for each lane and record the state of their images when they are computed."""
        for batch in batches:
            if batch.fresh:
                self.states = {}
            views = {key: self.preparations.views(pending) for key, pending in batch.opening.items()}
            for key, (first, *_) in views.items():
                self.states[key] = first.result().state
            batch.states = [
                state_text(row.content) if key is None else self.states.get(key, "")
                for row, key in zip(batch.rows, batch.keys)
            ]
            yield [
                replace(batch, opening={key: view[i] for key, view in views.items()})
                for i in range(len(self.lanes))
            ]

    def _rewards_of(self, lane: Lane) -> Callable[[Tensor, RowBatch, list[int]], Tensor]:
        """Return a function from image features (R, ...) of rows to rewards (R, K) of a lane."""

        def rewards(features: Tensor, batch: RowBatch, rows: list[int]) -> Tensor:
            return torch.stack([self._rewards(name, features, batch, rows) for name in lane.names], dim=-1)

        return rewards

    def _rewards(self, name: str, features: Tensor, batch: RowBatch, rows: list[int]) -> Tensor:
        """Return the rewards (R,) of rows with image features (R, ...)."""
        prompts = [batch.rows[i].prompt or "" for i in rows]
        tokenizer = self.group.models[name].tokenizer
        token_ids, mask = tokenizer(prompts)
        lengths = mask.sum(1).tolist()
        full = [row for row, length in zip(rows, lengths) if length == tokenizer.max_length]
        batch.cut.update(row for row in full if tokenizer.dropped_words(batch.rows[row].prompt or ""))
        return self.paths[name].pair_rewards(features, token_ids, mask).float()

    def _scored(self, results: Sequence[BatchResult[RowBatch]]) -> ScoredBatch:
        batch, named = results[0].batch, by_name(self.lanes, results)
        columns = {
            name: {} if result.values is None else dict(zip(result.rows, result.values.tolist()))
            for name, result in named.items()
        }
        rows = []
        for i, row in enumerate(batch.rows):
            scores = {name: column[i] for name, column in columns.items() if i in column}
            finite = {name: score for name, score in scores.items() if math.isfinite(score)}
            errors = {name: result.errors[i].reason for name, result in named.items() if i in result.errors}
            error = joined_error(errors, len(named)) or row.error
            if len(finite) < len(scores):
                error = _not_finite(scores) if error is None else f"{error}; {_not_finite(scores)}"
            kind = error_kind(*errors.values()) if errors else None  # without the names of scorers
            rows.append(GroupRow(row.prompt, row.image, finite, error, kind))
        return ScoredBatch(batch.shard, rows, batch.states, batch.last, results[0].encoded, len(batch.cut))


def _not_finite(scores: dict[str, float]) -> str:
    """Return the error of a row with a score that is NaN or infinite."""
    wrong = {name: score for name, score in scores.items() if not math.isfinite(score)}
    if len(scores) == 1:
        return f"the reward is not a finite number: {next(iter(wrong.values()))}"
    return f"the reward is not a finite number: {', '.join(f'{name} {wrong[name]}' for name in wrong)}"


def _as_file(row: InputRow) -> tuple[str | bytes, str]:
    assert row.content is not None  # rows without content have an error and are not opened
    return row.content, row.image
