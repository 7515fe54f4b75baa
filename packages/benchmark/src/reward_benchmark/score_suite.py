"""Scorer x suite -> scores.jsonl; goes on where it was stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .progress import bar
from .score_store import Key, Score, ScoreStore
from .suites import Group, Part

CHUNK = 32  # pictures scored between two writes

Loader = Callable[[str, "str | None"], Any]


def score_suite(
    parts: Sequence[Part],
    scorers: Sequence[str],
    store: ScoreStore,
    load: Loader,
    devices: Sequence[str | None] = (None,),
    batch_size: int | None = None,
) -> None:
    """Score every picture of every part with every scorer; what the store holds is not scored again.

    One scorer after the other is loaded, once a device; the devices take chunks from one queue.

    Args:
        load: (name, device) -> a scorer with ``score_rows``.
        batch_size: pairs computed at once; None leaves it to the scorer.
    """
    with bar() as shown:
        for name in scorers:
            todo = list(_chunks(parts, name, store.rows))
            if not todo:
                continue
            count = sum(len(chunk) for chunk in todo)
            _score_with(
                name, todo, store, load, devices, batch_size, shown, shown.add_task(name, total=count)
            )


Item = tuple[Key, str, Any]  # key, prompt, path


def _chunks(parts: Sequence[Part], scorer: str, done: dict[Key, Score]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for part in parts:
        for group in part.groups:
            chunk += [item for item in _items(part, group, scorer) if item[0] not in done]
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _items(part: Part, group: Group, scorer: str) -> Iterator[Item]:
    for name, image in zip(group.names, group.images):
        yield (part.name, scorer, name), group.prompt, image


def _score_with(name, todo, store, load, devices, batch_size, shown, task) -> None:
    waiting: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
    for chunk in todo:
        waiting.put(chunk)
    writing, stop = threading.Lock(), threading.Event()

    def work(device: str | None) -> None:
        scorer = load(name, device)
        while not stop.is_set():
            try:
                chunk = waiting.get_nowait()
            except queue.Empty:
                return
            rows = scorer.score_rows(
                [prompt for _, prompt, _ in chunk], [image for _, _, image in chunk], batch_size=batch_size
            )
            scores = {key: Score(row.score, row.error) for (key, _, _), row in zip(chunk, rows)}
            with writing:
                store.add(scores)
                shown.advance(task, len(scores))

    if len(devices) == 1:
        work(devices[0])
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(work, device) for device in devices]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise
