"""Make ranked groups: images of one prompt with and without faults, ordered by their true utility."""

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

    Attributes:
        prompt: the prompt.
        scene: the scene that it describes.
        images: (K, H, W, 3), uint8, in random order.
        truths: truth of each image.
        ranking: rank of each image; 1 is best, ties are equal (see `rank`).
        faults: faults of each image.
    """

    prompt: str
    scene: Scene
    images: np.ndarray
    truths: tuple[Truth, ...]
    ranking: tuple[int, ...]
    faults: tuple[tuple[Fault, ...], ...]


def rank(utilities: Sequence[float], tie_width: float) -> tuple[int, ...]:
    """Return ranks from utilities: 1 is best, dense (1, 2, 2, 3).

    Going from the best to the worst image, an image shares the rank of the previous one while it is within
    `tie_width` of the first image of that rank. So images of the same rank differ by at most `tie_width`,
    even in a long chain of near ties; images of neighboring ranks may differ by less.
    """
    ranks = [0] * len(utilities)
    current, leader = 0, float("inf")
    for index in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        # With a tolerance, so that rounding does not break a tie of exactly `tie_width`.
        if leader - utilities[index] > tie_width + 1e-9:
            current, leader = current + 1, utilities[index]
        ranks[index] = current
    return tuple(ranks)


def make_group(rng: np.random.Generator, config: GroupConfig = TRAIN, split: str = "train") -> Group:
    """Return a random group. In "train", no prompt or image has a held-out combination or relation.

    Raise ValueError if the split is unknown or the config cannot produce a group.
    """
    scene = sample_scene(rng, split, config.pair_share)
    prompt = phrase(scene, rng)
    for _ in range(MAX_TRIES):
        count = int(rng.integers(config.images[0], config.images[1] + 1))
        faults = [sample_faults(scene, rng, config, split) for _ in range(count)]
        if rng.random() < config.good:
            faults[int(rng.integers(count))] = ()
        images = [make_image(scene, rng, image_faults, config.size) for image_faults in faults]
        truths = tuple(image.truth for image in images)
        ranking = rank([truth.utility for truth in truths], config.tie_width)
        if max(ranking) > 1:  # a group of ties would be useless
            pixels = np.stack([image.pixels for image in images])
            return Group(prompt, scene, pixels, truths, ranking, tuple(faults))
    raise ValueError(
        f"Cannot make a group: all images tied in {MAX_TRIES} tries. Lower tie_width ({config.tie_width}) or "
        "use other faults."
    )


def make_groups(
    count: int, config: GroupConfig = TRAIN, split: str = "train", start: int = 0
) -> Iterator[Group]:
    """Yield groups `start` to `start + count - 1` of the infinite sequence that config and split define.

    Each group has a separate random generator, so groups can be made in parts and in any order.
    """
    check_name("split", split, SPLITS)
    for index in range(start, start + count):
        yield make_group(np.random.default_rng([config.seed, SPLITS.index(split), index]), config, split)


def write_groups(groups: Iterable[Group], folder: str | os.PathLike[str]) -> Path:
    """Write groups as PNG files and a `rankings.json`; return the path of the latter.

    `rankings.json` is a list of {"id", "prompt", "generations", "ranking"} with file names relative to
    `folder` and their ranks, 1 is best. Each record also has "utilities", "alignments", "cleanlinesses" and
    "faults" (one entry per image), the number of "objects", and the split's "world_version".

    `groups` may be a generator; only one group is in memory. Files are written atomically, `rankings.json`
    last.
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
    """Write to a temporary file in the same folder, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
