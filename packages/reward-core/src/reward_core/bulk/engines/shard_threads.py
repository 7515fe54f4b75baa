"""Score shards of a small model on a CPU in several threads, each with its own shard and one core.

torch's threads share every product. The products of a small model are so short that starting and joining the
threads takes a good part of the time, and a thread that decodes images delays all of them. Threads that score
different shards do not wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from queue import Full, Queue
from typing import TypeAlias

import torch

from ...errors import ClippedLevelsWarning
from ...models.imagereward.reward_model import RewardModel
from ...runs.caller_warning import warn_caller, warnings_passed_to
from ...runs.cpus import usable_cpus
from ...scoring.scorer_group import ScorerGroup
from ..shard_scorer import ScoredBatch, ShardScorer

# Parameters of a small model. The bundled ``tiny`` has 0.9 million.
MOST_PARAMETERS = 8_000_000
# Each thread keeps images and features in memory, and all of them share Python's lock.
MOST_THREADS = 8
# With fewer shards for each thread, some threads would be idle for long at the end.
LEAST_SHARDS = 2
# Scored batches of each thread that wait to be written.
MOST_WAITING = 2
POLL_SECONDS = 0.2

#: A scored batch, the arguments of a warning, an error, or None when a thread is done.
Message: TypeAlias = "ScoredBatch | tuple[str, type[Warning]] | BaseException | None"


def shard_threads(group: ScorerGroup, shards: int) -> int:
    """Return the number of threads that score shards at the same time; 1 if torch's threads are faster.

    Scores may round differently with another number of torch's threads. So the number does not depend on what
    an interrupted run has scored.

    Args:
        group: the scorers.
        shards: number of shards of the whole input.
    """
    threads = min(torch.get_num_threads(), usable_cpus(), MOST_THREADS)
    small = sum(p.numel() for m in group.models.values() for p in m.parameters()) <= MOST_PARAMETERS
    few = shards < LEAST_SHARDS * threads
    return 1 if few or not small or not all(map(_computes_in_threads, group.models.values())) else threads


def _computes_in_threads(model: object) -> bool:
    """Return whether several threads may compute with the model at once, each with one core."""
    if not isinstance(model, RewardModel):
        return False
    return model.device.type == "cpu" and not (model.fast or model.int8)


def scored_in_threads(
    scorers: Sequence[ShardScorer], shards: Sequence[int]
) -> Generator[ScoredBatch, None, None]:
    """Yield the scored batches of shards: those of one shard in order, those of different shards in any.

    Args:
        scorers: a scorer for each thread.
        shards: numbers of the shards.
    """
    todo, stopped = deque(shards), threading.Event()
    messages: Queue[Message] = Queue(MOST_WAITING * len(scorers))

    def send(message: Message) -> None:
        while not stopped.is_set():
            try:
                return messages.put(message, timeout=POLL_SECONDS)
            except Full:
                continue

    def next_shards() -> Iterator[int]:
        while todo and not stopped.is_set():
            try:
                yield todo.popleft()
            except IndexError:  # another thread took the last one
                return

    def score(scorer: ShardScorer) -> None:
        torch.set_num_threads(1)  # of this thread; of all threads in MKL
        try:
            with warnings_passed_to(lambda message, category: send((message, category))):
                for batch in scorer.score(next_shards()):
                    send(batch)
                    if stopped.is_set():
                        return
            send(None)
        except BaseException as error:
            send(error)

    torch_threads = torch.get_num_threads()
    threads = [threading.Thread(target=score, args=(scorer,), daemon=True) for scorer in scorers]
    try:
        for thread in threads:
            thread.start()
        yield from _scored(messages, len(threads))
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(torch_threads)


def _scored(messages: Queue[Message], running: int) -> Iterator[ScoredBatch]:
    """Yield the batches that running threads send; issue their warnings and raise their errors."""
    clipped = False
    while running:
        message = messages.get()
        if isinstance(message, ScoredBatch):
            yield message
        elif isinstance(message, BaseException):
            raise message
        elif message is None:
            running -= 1
        else:
            text, category = message
            # Every thread reports its first image with clipped levels.
            if category is not ClippedLevelsWarning or not clipped:
                warn_caller(text, category)
            clipped |= category is ClippedLevelsWarning
