"""Score shards row by row, with VLM judges, which have no encoders to share between rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from ..errors import InputError
from ..files.score_file import GroupRow, ScoredRow
from ..inputs.image_file import ImageSource, StoredImage, state_text
from ..models.judges.judge import Judge, PointwiseJudge
from .input_row import InputRow
from .shard_scorer import ScoredBatch
from .shards import Shards
from .sources import Source


class RowScorer:
    """Score shards of one source with one judge; the counterpart of `ShardScorer`.

    Args:
        name: its name in the results.
        judge: the judge.
        source: the input.
        shards: its division into shards.
        batch_size: rows per batch of results.
        questions: questions that the judge is asked at once; None for its default.
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.

    Raises:
        InputError: a pairwise judge, whose scores depend on other rows.
    """

    def __init__(
        self,
        name: str,
        judge: Judge,
        source: Source,
        shards: Shards,
        batch_size: int,
        questions: int | None = None,
        scored_rows: Mapping[int, int] | None = None,
    ):
        if not isinstance(judge, PointwiseJudge):
            raise InputError(
                f"Cannot score rows with {judge.name!r}: a pairwise judge compares the images of a prompt. "
                "Choose a pointwise judge, or run `reward-core rank` or `reward-core evaluate`."
            )
        self.name, self.judge, self.source, self.shards = name, judge, source, shards
        self.batch_size, self.questions, self.scored_rows = batch_size, questions, scored_rows or {}
        # Whole batches of results from as many rows as the judge takes at once.
        self.rows_at_once = -(-judge.vlm.questions_at_once // batch_size) * batch_size

    def score(self, shards: Iterable[int]) -> Iterator[ScoredBatch]:
        """Yield the scored batches of shards, one shard after the other."""
        for shard in shards:
            indices = self.shards.range(shard)
            start = indices.start + self.scored_rows.get(shard, 0)
            rows = self.source.read(start)
            for begin in range(start, indices.stop, self.rows_at_once):
                expected = min(self.rows_at_once, indices.stop - begin)
                taken = list(islice(rows, expected))
                if len(taken) < expected:
                    raise InputError(
                        f"Cannot read the input: it ends at row {begin + len(taken)}, so it was changed "
                        "during the run. Run the command again."
                    )
                yield from self._batches(shard, taken, begin + expected == indices.stop)

    def _batches(self, shard: int, rows: list[InputRow], last: bool) -> Iterator[ScoredBatch]:
        states = [state_text(row.content) for row in rows]  # before the images are read
        scored = self._scored(rows)
        for start in range(0, len(rows), self.batch_size):
            batch = list(islice(scored, self.batch_size))
            end = start + len(batch)
            read = sum(bool(row.scores) for row in batch)
            yield ScoredBatch(shard, batch, states[start:end], last and end == len(rows), read)

    def _scored(self, rows: list[InputRow]) -> Iterator[GroupRow]:
        """Yield the result of each row, in order."""
        valid = [row for row in rows if row.error is None]
        judged: Iterator[ScoredRow] = iter(())
        if valid:
            prompts = [row.prompt or "" for row in valid]
            judged = self.judge.score_rows(prompts, [_image(row) for row in valid], batch_size=self.questions)
        for row in rows:
            if row.error is not None:
                yield GroupRow(row.prompt, row.image, {}, row.error)
            else:
                result = next(judged)
                scores = {} if result.score is None else {self.name: result.score}
                yield GroupRow(row.prompt, row.image, scores, result.error)


def _image(row: InputRow) -> ImageSource:
    assert row.content is not None  # rows without content have an error and are not scored
    return row.content if isinstance(row.content, str) else _ImageBytes(row.image, row.content)


class _ImageBytes(StoredImage):
    """An image whose file is in memory."""

    def __init__(self, name: str, content: bytes):
        self._name, self._content = name, content

    @property
    def name(self) -> str:
        return self._name

    def read(self) -> bytes:
        return self._content
