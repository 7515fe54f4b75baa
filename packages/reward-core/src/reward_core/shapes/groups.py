"""Ranked groups: several images of one prompt, some right, some at fault, ordered by their true utility."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .fault_mix import MAX_TRIES, TRAIN, GroupConfig, sample_faults
from .faults import Fault, make_image
from .grammar import Scene, check_name, phrase
from .split import SPLITS, load_split, sample_scene
from .truth import Truth


@dataclass(frozen=True, eq=False)
class Group:
    """K images of one prompt.

    images: (K, H, W, 3), uint8, in random order. truths, ranking, faults: one entry an image.
    ranking: places, 1 is best, equal places for ties (see `rank`).
    """

    prompt: str
    scene: Scene
    images: np.ndarray
    truths: tuple[Truth, ...]
    ranking: tuple[int, ...]
    faults: tuple[tuple[Fault, ...], ...]


def rank(utilities: Sequence[float], tie_width: float) -> tuple[int, ...]:
    """Places from utilities: 1 is best, dense (1, 2, 2, 3).

    From the best down, the first image of a place leads it, and the next ones share it while they are
    within `tie_width` of the leader. So a chain of near ties is cut, not swallowed whole: all that share a
    place are within the width of each other, though two in neighboring places may be nearer still.
    """
    ranks = [0] * len(utilities)
    current, leader = 0, float("inf")
    for index in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        # A billionth of slack, so that rounding does not break a tie of exactly the width.
        if leader - utilities[index] > tie_width + 1e-9:
            current, leader = current + 1, utilities[index]
        ranks[index] = current
    return tuple(ranks)


def make_group(rng: np.random.Generator, config: GroupConfig = TRAIN, split: str = "train") -> Group:
    """One group. In "train", neither the prompt nor any image shows a held-out combination or relation.

    Raises ValueError for an unknown split and for a config that cannot give a group.
    """
    scene = sample_scene(rng, split, config.pair_share)
    prompt = phrase(scene, rng)
    for _ in range(MAX_TRIES):
        count = int(rng.integers(config.images[0], config.images[1] + 1))
        faults = [sample_faults(scene, rng, config, split) for _ in range(count)]
        if rng.random() < config.good:
            faults[int(rng.integers(count))] = ()
        images = [make_image(scene, rng, some, config.size) for some in faults]
        truths = tuple(image.truth for image in images)
        ranking = rank([truth.utility for truth in truths], config.tie_width)
        if max(ranking) > 1:  # a group without an order teaches nothing
            pixels = np.stack([image.pixels for image in images])
            return Group(prompt, scene, pixels, truths, ranking, tuple(faults))
    raise ValueError(f"every group tied: tie_width {config.tie_width} is too wide for the config's faults")


def make_groups(
    count: int, config: GroupConfig = TRAIN, split: str = "train", start: int = 0
) -> Iterator[Group]:
    """Groups number `start` to `start + count - 1` of the endless row that config, split and seed define.

    Each group has a generator of its own, so a row can be cut into parts and made in any order.
    """
    check_name("split", split, SPLITS)
    for index in range(start, start + count):
        yield make_group(np.random.default_rng([config.seed, SPLITS.index(split), index]), config, split)


def write_groups(groups: Iterable[Group], folder: str | os.PathLike[str]) -> Path:
    """Write groups as PNG files and a `rankings.json`; returns the path of the latter.

    `rankings.json` is a list of {"id", "prompt", "generations", "ranking"}: the file names, relative to
    `folder`, and the place of each, 1 is best. Beside them stand, one entry an image, "utilities",
    "alignments", "cleanlinesses" and "faults", and the number of "objects" and the split's "world_version".

    `groups` may be a generator: one group at a time is held. Every file appears whole, `rankings.json` last.
    """
    folder = Path(folder)
    rows = []
    for number, group in enumerate(groups):
        name = f"{number:06d}"
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        paths = [f"images/{name}/{index}.png" for index in range(len(group.images))]
        for path, pixels in zip(paths, group.images, strict=True):
            png = BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            _write_atomically(folder / path, png.getvalue())
        rows.append(
            {
                "id": name,
                "prompt": group.prompt,
                "generations": paths,
                "ranking": list(group.ranking),
                "utilities": [truth.utility for truth in group.truths],
                "alignments": [truth.alignment for truth in group.truths],
                "cleanlinesses": [truth.cleanliness for truth in group.truths],
                "faults": [[asdict(fault) for fault in faults] for faults in group.faults],
                "objects": len(group.scene.things),
                "world_version": load_split().version,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    rankings = folder / "rankings.json"
    _write_atomically(rankings, (json.dumps(rows, indent=1) + "\n").encode())
    return rankings


def _write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name beside `path`, then rename, so that no reader meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
