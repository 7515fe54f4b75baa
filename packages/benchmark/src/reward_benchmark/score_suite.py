"""Score a suite with all scorers into scores.jsonl, resumably."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reward_core.runs.progress import bar

from .score_store import Key, Score, ScoreStore, fingerprint
from .scorers import Bundle, bundles
from .suites import Part

WRITE_ROWS, WRITE_SECONDS = 32, 30.0  # scores are written after so many images or seconds
CHUNK = 1024  # images that one of several devices takes at once, at most

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

    Scorers are loaded one after the other, once per device. A single device scores all images in one pass;
    several take chunks from one queue.

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
            items = list(_missing(parts, names, store.rows))
            if not items:
                continue
            task = progress.add_task(" and ".join(names), total=len(items))
            advance = partial(progress.advance, task)
            sources |= _score_with(names, items, store, load, devices, batch_size, advance)
    return sources


@dataclass(frozen=True)
class _Item:
    """An image to score, and the keys of the scores that are missing in the store."""

    keys: dict[str, tuple[Key, str]]  # scorer -> key, fingerprint
    prompt: str
    image: Path


def _missing(parts: Sequence[Part], scorers: tuple[str, ...], done: dict[Key, Score]) -> Iterator[_Item]:
    for part in parts:
        for group in part.groups:
            for name, image in zip(group.names, group.images):
                keys = {}
                for scorer in scorers:
                    key, of = (part.name, scorer, name), fingerprint(group.prompt, image, scorer)
                    if key not in done or done[key].of != of:
                        keys[scorer] = (key, of)
                if keys:
                    yield _Item(keys, group.prompt, image)


def _score_with(
    names: tuple[str, ...],
    items: list[_Item],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None],
    batch_size: int | None,
    advance: Callable[[int], None],
) -> dict[str, str]:
    """Score images with one group of scorers; return the origins of their weights."""
    size = len(items)
    if len(devices) > 1:  # several chunks for each device, so that all end at about the same time
        size = min(CHUNK, max(WRITE_ROWS, math.ceil(len(items) / (4 * len(devices)))))
    chunks: queue.SimpleQueue[list[_Item]] = queue.SimpleQueue()
    for start in range(0, len(items), size):
        chunks.put(items[start : start + size])
    write_lock, stop = threading.Lock(), threading.Event()
    sources: dict[str, str] = {}

    def work(device: str | None) -> None:
        scorer = load(names, device)
        sources.update(scorer.sources())
        while not stop.is_set():
            try:
                chunk = chunks.get_nowait()
            except queue.Empty:
                return
            for scores, count in _scored(scorer, chunk, batch_size):
                with write_lock:
                    store.add(scores)
                    advance(count)
                if stop.is_set():
                    return

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


def _scored(
    scorer: Bundle, items: list[_Item], batch_size: int | None
) -> Iterator[tuple[dict[Key, Score], int]]:
    """Yield the scores of images, a few at a time, and the number of these images."""
    rows = scorer.score_rows([item.prompt for item in items], [item.image for item in items], batch_size)
    scores: dict[Key, Score] = {}
    count, written = 0, time.monotonic()
    for item, row in zip(items, rows, strict=True):
        scores |= {key: Score(row[name].score, row[name].error, of) for name, (key, of) in item.keys.items()}
        count += 1
        if count == WRITE_ROWS or time.monotonic() - written >= WRITE_SECONDS:
            yield scores, count
            scores, count, written = {}, 0, time.monotonic()
    if count:
        yield scores, count
