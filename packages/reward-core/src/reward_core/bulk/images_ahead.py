"""Rows read and images opened by threads, a few batches before the model wants them."""

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
        shard: the number of their shard.
        keys: each row's image; None for a row that has its error already.
        opening: the images among them that are not remembered, being opened.
        first, last: whether they begin, and end, their shard.
        scored: whether an earlier run has scored them. Then only the images whose features later batches
            use are opened, together with all that were encoded with them.
    """

    shard: int
    rows: list[InputRow]
    keys: list[Key | None]
    opening: dict[Key, Future]
    first: bool
    last: bool
    scored: bool = False

    def images(self) -> list[Key]:
        return [key for key in self.keys if key is not None]


class ImagesAhead:
    """Iterates over the batches of some shards; at most ``BATCHES_AHEAD`` of them are in memory.

    Args:
        open_image: row -> what is wanted of its image; called by several threads at once. What it raises
            is raised where the future's result is asked for.
        scored_rows: by shard, how many of its first rows an earlier run has scored: whole batches.
        cache: how many images stay remembered from batch to batch; none from shard to shard.
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
        # The one reading thread takes them in turn, so the generator is never entered twice at once.
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
            own = self.shards.range(shard)
            for number, start in enumerate(range(0, len(own), self.batch_size)):
                expected = min(self.batch_size, len(own) - start)
                batch = list(islice(rows, expected))
                if len(batch) < expected:
                    at = own.start + start + len(batch)
                    raise InputError(f"the input ended at row {at}: it was changed while it was read")
                keys = [None if row.error else row.key() for row in batch]
                used = [key for key in keys if key is not None]
                by_key = dict(zip(keys, batch))
                opening = {}
                for key in encoded.absent(used):
                    if number >= scored or number in again:
                        opening[key] = openers.submit(self.open_image, by_key[key])
                    encoded[key] = None
                encoded.used(used)
                last = start + len(batch) == len(own)
                yield Batch(shard, batch, keys, opening, start == 0, last, number < scored)

    def _rows_of_shards(self) -> Iterator[tuple[int, Iterator[InputRow], int, set[int]]]:
        """Each wanted shard's number and rows, how many batches of it are scored, which to encode again.

        Neighbors are read in one go.
        """
        position = -1
        rows: Iterator[InputRow] = iter(())
        for shard in self.wanted:
            own = self.shards.range(shard)
            scored = self.scored_rows.get(shard, 0) // self.batch_size
            again = self._encoded_again(own, scored)
            if own.start != position or scored:
                rows = self.source.read(own.start)
            position = own.stop
            yield shard, rows, scored, again

    def _encoded_again(self, own: range, scored: int) -> set[int]:
        """The scored batches of a shard whose features its other batches find in the cache.

        Reads the rows of a shard that is scored in part once more, so that no image has to wait in memory.
        """
        if not scored:
            return set()
        rows = islice(self.source.read(own.start), len(own))
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
