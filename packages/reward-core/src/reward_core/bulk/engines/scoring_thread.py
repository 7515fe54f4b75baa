"""A thread that scores the shards that other threads ask for, without a pause between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from ..row_scorer import RowScorer
from ..shard_scorer import ScoredBatch, ShardScorer


class ScoringThread:
    """A thread with one scorer for all shards, so that their decoding and computing overlap.

    Args:
        load: function that loads the models and returns the scorer; the thread calls it.
    """

    def __init__(self, load: Callable[[], ShardScorer | RowScorer]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._shards: SimpleQueue[int | None] = SimpleQueue()
        self._results: deque[Future[list[ScoredBatch]]] = deque()  # in the order of the shards
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, name="reward-core-score", daemon=True).start()

    def score(self, shard: int) -> list[ScoredBatch]:
        """Return the batches of a shard. Several threads may call this at once.

        Raises:
            Exception: of the scorer. It scores no further shards then.
        """
        result: Future[list[ScoredBatch]] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._results.append(result)
            self._shards.put(shard)
        return result.result()

    def close(self) -> None:
        """Let the thread end after the shards that it has."""
        self._shards.put(None)

    def _run(self) -> None:
        batches: list[ScoredBatch] = []
        try:
            for batch in self._load().score(iter(self._shards.get, None)):
                batches.append(batch)
                if batch.last:
                    self._results.popleft().set_result(batches)
                    batches = []
        except BaseException as error:
            with self._lock:
                self._failure = error
                for result in self._results:
                    result.set_exception(error)
