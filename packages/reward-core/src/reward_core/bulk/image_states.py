"""Sizes and modification times of scored images, to detect images that changed.

An image whose bytes are in the input itself (a tar, a Parquet column) has no state, because the input's
fingerprint covers it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ..inputs.image_file import state_text

if TYPE_CHECKING:
    from .shards import Shards
    from .sources import Source


def states_digest(states: Sequence[str]) -> str | None:
    """Return a digest of the states of rows; None if no image is a path."""
    if not any(states):
        return None
    return hashlib.blake2b("\n".join(states).encode(), digest_size=16).hexdigest()


def changed_shards(source: Source, shards: Shards, scored: Mapping[int, tuple[int, str]]) -> Iterator[int]:
    """Yield the shards with an image that changed after it was scored.

    Args:
        source: the input.
        shards: its division into shards.
        scored: shard -> (number of its first rows that are scored, digest of their states).
    """
    position = -1
    paths: Iterator[str | None] = iter(())
    for shard, (rows, digest) in sorted(scored.items()):
        start = shards.range(shard).start
        if start != position:
            paths = source.image_paths(start)
        position = start + rows
        if states_digest([state_text(path) for path in islice(paths, rows)]) != digest:
            yield shard
