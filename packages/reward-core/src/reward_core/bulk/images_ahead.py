"""Read rows in a thread and have their images decoded, a few batches ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from ..errors import InputError
from ..inputs.decode_ahead import Pending
from ..scoring.decoders import Submit
from ..scoring.lru_cache import LRUCache
from ..scoring.pipeline import BATCHES_AHEAD, Batch
from .input_row import InputRow, Key
from .shards import Shards
from .sources import Source


@dataclass
class RowBatch(Batch):
    """Rows of a shard that are computed together.

    With ``encode_only`` an earlier run scored the batch. Its images are then decoded only if later batches
    use the features of at least one of them.

    Attributes:
        shard: number of the shard.
        rows: the rows.
        last: whether this is the last batch of the shard.
        states: state of each row's image when it was read (see image_states.py).
        cut: indices of the rows whose prompt was truncated.
    """

    shard: int = 0
    rows: list[InputRow] = field(default_factory=list)
    last: bool = False
    states: list[str] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)


class ImagesAhead:
    """Iterate over the batches of shards, with at most ``BATCHES_AHEAD`` of them in memory.

    Args:
        source: the input.
        shards: its division into shards.
        wanted: numbers of the shards to read.
        batch_size: rows per batch.
        cache: number of images that stay cached between the batches of a shard.
        submit: function that starts to decode the images of rows.
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.
    """

    def __init__(
        self,
        source: Source,
        shards: Shards,
        wanted: Iterable[int],
        batch_size: int,
        cache: int,
        submit: Submit[InputRow],
        scored_rows: Mapping[int, int] | None = None,
    ):
        self.scored_rows = scored_rows or {}
        self.source, self.shards, self.wanted = source, shards, wanted
        self.batch_size, self.cache, self.submit = batch_size, cache, submit
        self._waiting: deque[Future[RowBatch | None]] = deque()

    def __iter__(self) -> Iterator[RowBatch]:
        reader = ThreadPoolExecutor(1, "reward-core-read")
        batches = self._batches()
        # A single thread reads, so the generator is never entered twice at once.
        self._waiting.extend(reader.submit(next, batches, None) for _ in range(BATCHES_AHEAD))
        try:
            while (batch := self._waiting.popleft().result()) is not None:
                self._waiting.append(reader.submit(next, batches, None))
                yield batch
        finally:
            reader.shutdown(wait=False, cancel_futures=True)

    def ready(self) -> bool:
        """Return whether the next batch is read: taking it waits neither for a shard nor for the input."""
        return self._waiting[0].done()

    def _batches(self) -> Iterator[RowBatch]:
        for shard, rows, scored, again in self._rows_of_shards():
            encoded: LRUCache[Key, None] = LRUCache(self.cache)
            indices = self.shards.range(shard)
            for number, start in enumerate(range(0, len(indices), self.batch_size)):
                expected = min(self.batch_size, len(indices) - start)
                batch = list(islice(rows, expected))
                if len(batch) < expected:
                    end = indices.start + start + len(batch)
                    raise InputError(
                        f"Cannot read the input: it ends at row {end}, so it was changed during the run. Run "
                        "the command again."
                    )
                keys = [None if row.error else row.key() for row in batch]
                used = [key for key in keys if key is not None]
                by_key = dict(zip(keys, batch))
                absent = list(encoded.absent(used))
                for key in absent:
                    encoded[key] = None
                opened = absent if number >= scored or number in again else []
                pending = self.submit([by_key[key] for key in opened])
                opening: dict[Hashable, Pending] = dict(zip(opened, pending))
                encoded.used(used)
                last = start + len(batch) == len(indices)
                yield RowBatch(keys, opening, None, number < scored, start == 0, shard, batch, last=last)

    def _rows_of_shards(self) -> Iterator[tuple[int, Iterator[InputRow], int, set[int]]]:
        """Yield for each shard: number, rows, number of scored batches, and which of these to encode again.

        Consecutive shards are read without reopening the source.
        """
        position = -1
        rows: Iterator[InputRow] = iter(())
        for shard in self.wanted:
            indices = self.shards.range(shard)
            scored = self.scored_rows.get(shard, 0) // self.batch_size
            again = self._batches_to_encode_again(indices, scored)
            if indices.start != position or scored:
                rows = self.source.read(indices.start)
            position = indices.stop
            yield shard, rows, scored, again

    def _batches_to_encode_again(self, indices: range, scored: int) -> set[int]:
        """Return the scored batches of a shard whose features its other batches take from the cache.

        This reads the rows of a partly scored shard an additional time, instead of keeping them in memory.
        """
        if not scored:
            return set()
        rows = islice(self.source.read(indices.start), len(indices))
        keys = [None if row.error else row.key() for row in rows]
        encoded: LRUCache[Key, int] = LRUCache(self.cache)
        again: set[int] = set()
        for number, start in enumerate(range(0, len(keys), self.batch_size)):
            used = [key for key in keys[start : start + self.batch_size] if key is not None]
            for key in encoded.absent(used):
                encoded[key] = number
            if number >= scored:
                again.update(encoded[key] for key in used if encoded[key] < scored)
            encoded.used(used)
        return again
