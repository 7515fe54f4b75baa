"""Sizes and times of the images that were scored, to notice that one was replaced since then.

An image whose bytes are in the input itself (a tar, a Parquet column) has no state: the input's own
fingerprint covers it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .shards import Shards
    from .sources import Source

NO_FILE = "-"


def image_state(image: str | bytes | None) -> str:
    """Return "size mtime_ns" of an image's file, "-" if there is none, "" if the image is not a path."""
    if not isinstance(image, str):
        return ""
    try:
        facts = os.stat(image)
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        return NO_FILE
    return f"{facts.st_size} {facts.st_mtime_ns}"


def states_digest(states: Sequence[str]) -> str | None:
    """Return a digest of some rows' states; None if none of them is a path."""
    if not any(states):
        return None
    return hashlib.blake2b("\n".join(states).encode(), digest_size=16).hexdigest()


def changed_shards(source: Source, shards: Shards, scored: Mapping[int, tuple[int, str]]) -> Iterator[int]:
    """Yield the shards with an image that is not as it was when it was scored.

    Args:
        scored: by shard, how many of its first rows are scored and the digest of their states.
    """
    position = -1
    paths: Iterator[str | None] = iter(())
    for shard, (rows, digest) in sorted(scored.items()):
        start = shards.range(shard).start
        if start != position:
            paths = source.image_paths(start)
        position = start + rows
        if states_digest([image_state(path) for path in islice(paths, rows)]) != digest:
            yield shard
