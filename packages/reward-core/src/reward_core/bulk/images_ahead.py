"""Read rows and open images in threads, a few batches ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import InputError
from ..runs.cpus import usable_cpus
from .input_row import InputRow, Key
from .lru_cache import LRUCache
from .shards import Shards
from .sources import Source

BATCHES_AHEAD = 3
MOST_THREADS = 8


@dataclass
class Batch:
    """Rows that are computed together.

    Attributes:
        shard: number of their shard.
        rows: the rows.
        keys: key of each row's image; None for a row with an error.
        opening: images of the batch that are not cached and are being opened.
        first, last: whether this is the first or last batch of the shard.
        scored: whether an earlier run scored the batch. Its images are then opened only if later batches
            use the features of at least one of them.
    """

    shard: int
    rows: list[InputRow]
    keys: list[Key | None]
    opening: dict[Key, Future]
    first: bool
    last: bool
    scored: bool = False

    def images(self) -> list[Key]:
        """Return the keys of the rows without an error."""
        return [key for key in self.keys if key is not None]


class ImagesAhead:
    """Iterate over the batches of shards, with at most ``BATCHES_AHEAD`` of them in memory.

    Args:
        source: the input.
        shards: its division into shards.
        wanted: numbers of the shards to read.
        batch_size: rows per batch.
        cache: number of images that stay cached between the batches of a shard.
        open_image: function of a row; several threads call it at once. Its result or exception becomes
            that of the future in ``Batch.opening``.
        threads: number of threads that open images (default: one per CPU, at most 8).
        scored_rows: shard -> number of its first rows, in whole batches, that an earlier run scored.
    """

    def __init__(
        self,
        source: Source,
        shards: Shards,
        wanted: Iterable[int],
        batch_size: int,
        cache: int,
        open_image: Callable[[InputRow], Any],
        threads: int | None = None,
        scored_rows: Mapping[int, int] | None = None,
    ):
        self.scored_rows = scored_rows or {}
        self.source, self.shards, self.wanted = source, shards, wanted
        self.batch_size, self.cache, self.open_image = batch_size, cache, open_image
        self.threads = threads or min(MOST_THREADS, usable_cpus())

    def __iter__(self) -> Iterator[Batch]:
        reader = ThreadPoolExecutor(1, "reward-core-read")
        openers = ThreadPoolExecutor(self.threads, "reward-core-open")
        batches = self._batches(openers)
        # A single thread reads, so the generator is never entered twice at once.
        waiting = deque(reader.submit(next, batches, None) for _ in range(BATCHES_AHEAD))
        try:
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(reader.submit(next, batches, None))
                yield batch
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            openers.shutdown(wait=False, cancel_futures=True)

    def _batches(self, openers: ThreadPoolExecutor) -> Iterator[Batch]:
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
                opening = {}
                for key in encoded.absent(used):
                    if number >= scored or number in again:
                        opening[key] = openers.submit(self.open_image, by_key[key])
                    encoded[key] = None
                encoded.used(used)
                last = start + len(batch) == len(indices)
                yield Batch(shard, batch, keys, opening, start == 0, last, number < scored)

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
