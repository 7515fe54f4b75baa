"""Score a suite with every scorer into scores.jsonl; an interrupted run resumes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reward_core.runs.progress import bar

from .score_store import Key, Score, ScoreStore, fingerprint
from .scorers import SharedTower, SingleScorer, bundles
from .suites import Part

CHUNK = 32  # images scored between two writes

Loader = Callable[[tuple[str, ...], "str | None"], SharedTower | SingleScorer]


def score_suite(
    parts: Sequence[Part],
    scorers: Sequence[str],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None] = (None,),
    batch_size: int | None = None,
) -> None:
    """Score every image of every part with every scorer; what the store holds is not scored again.

    One scorer (or set that shares a tower) after the other is loaded, once a device; the devices take
    chunks from one queue.

    Args:
        load: (names, device) -> their scorer.
        batch_size: pairs computed at once; None leaves it to the scorer.
    """
    with bar() as shown:
        for names in bundles(scorers):
            todo = list(_chunks(parts, names, store.rows))
            if not todo:
                continue
            task = shown.add_task(" and ".join(names), total=sum(map(len, todo)))
            _score_with(names, todo, store, load, devices, batch_size, partial(shown.advance, task))


@dataclass(frozen=True)
class _Item:
    """An image to score, and under which keys (those of its scorers that the store lacks)."""

    keys: dict[str, tuple[Key, str]]  # scorer -> key, fingerprint
    prompt: str
    image: Path


def _chunks(parts: Sequence[Part], scorers: tuple[str, ...], done: dict[Key, Score]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    for part in parts:
        for group in part.groups:
            for name, image in zip(group.names, group.images):
                keys = {}
                for scorer in scorers:
                    key, of = (part.name, scorer, name), fingerprint(group.prompt, image, scorer)
                    if key not in done or done[key].of != of:
                        keys[scorer] = (key, of)
                if keys:
                    chunk.append(_Item(keys, group.prompt, image))
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _score_with(
    names: tuple[str, ...],
    todo: list[list[_Item]],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None],
    batch_size: int | None,
    advance: Callable[[int], None],
) -> None:
    chunk_queue: queue.SimpleQueue[list[_Item]] = queue.SimpleQueue()
    for chunk in todo:
        chunk_queue.put(chunk)
    write_lock, stop = threading.Lock(), threading.Event()

    def work(device: str | None) -> None:
        scorer = load(names, device)
        while not stop.is_set():
            try:
                chunk = chunk_queue.get_nowait()
            except queue.Empty:
                return
            rows = scorer.score_all(
                [item.prompt for item in chunk], [item.image for item in chunk], batch_size
            )
            scores = {
                item.keys[name][0]: Score(row.score, row.error, item.keys[name][1])
                for name in names
                for item, row in zip(chunk, rows[name])
                if name in item.keys
            }
            with write_lock:
                store.add(scores)
                advance(len(chunk))

    if len(devices) == 1:
        work(devices[0])
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(work, device) for device in devices]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            raise
