"""Score a suite with all scorers into scores.jsonl, resumably."""

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
from .scorers import Bundle, bundles
from .suites import Part

CHUNK = 32  # images per write

Loader = Callable[[tuple[str, ...], "str | None"], Bundle]


def score_suite(
    parts: Sequence[Part],
    scorers: Sequence[str],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None] = (None,),
    batch_size: int | None = None,
) -> dict[str, str]:
    """Score all images with all scorers, except those already in the store.

    Scorers are loaded one after the other, once per device. The devices take chunks from one queue.

    Args:
        parts: parts of the suite.
        scorers: names of the scorers.
        store: where the scores are written.
        load: (names, device) -> scorer.
        devices: devices to score on; None: the default device.
        batch_size: pairs per batch; None: the scorer's default.

    Returns:
        Origin of the weights by scorer, of the scorers that were loaded and have weights.
    """
    sources: dict[str, str] = {}
    with bar() as progress:
        for names in bundles(scorers):
            chunks = list(_chunks(parts, names, store.rows))
            if not chunks:
                continue
            task = progress.add_task(" and ".join(names), total=sum(map(len, chunks)))
            advance = partial(progress.advance, task)
            sources |= _score_with(names, chunks, store, load, devices, batch_size, advance)
    return sources


@dataclass(frozen=True)
class _Item:
    """An image to score, and the keys of the scores that are missing in the store."""

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
    chunks: list[list[_Item]],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None],
    batch_size: int | None,
    advance: Callable[[int], None],
) -> dict[str, str]:
    """Score chunks with one group of scorers; return the origins of their weights."""
    chunk_queue: queue.SimpleQueue[list[_Item]] = queue.SimpleQueue()
    for chunk in chunks:
        chunk_queue.put(chunk)
    write_lock, stop = threading.Lock(), threading.Event()
    sources: dict[str, str] = {}

    def work(device: str | None) -> None:
        scorer = load(names, device)
        sources.update(scorer.sources())
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
        return sources
    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(work, device) for device in devices]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            raise
    return sources
