"""Helpers of the bulk tests: small images, the options of a fast run, reading its rows."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

FAST = ("--model", "tiny", "--device", "cpu", "--batch-size", 4, "--shard-rows", 8)

CAFE = "a café in 東京"
#: Bytes of captions -> their text.
READ = {
    CAFE.encode(): CAFE,
    CAFE.encode("utf-8-sig") + b"\r\n": CAFE,
    CAFE.encode("utf-16"): CAFE,
    "\ufeff".encode("utf-16-be") + CAFE.encode("utf-16-be"): CAFE,
    CAFE.encode("utf-32"): CAFE,
    "a red circle".encode("utf-16-le"): "a red circle",  # no byte order mark, but the null bytes show it
    "a red circle".encode("utf-16-be"): "a red circle",
}
#: Bytes of captions that cannot be read -> why.
NOT_READ = {
    "a café".encode("cp1252"): "it is not UTF-8. Save it as UTF-8",
    "東京".encode("shift-jis"): "it is not UTF-8. Save it as UTF-8",
    b"\xff\xfea": "it is not UTF-8. Save it as UTF-8",
    "a lost \ufffd sign".encode(): "it has replacement characters",
}


def make_images(folder: Path, count: int, seed: int = 3) -> list[str]:
    """Write images 0.png, 1.png, ... to a folder; return their names."""
    generator = np.random.default_rng(seed)
    names = [f"{i}.png" for i in range(count)]
    for name in names:
        cells = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(folder / name)
    return names


def rows_of(path: Path) -> list[dict]:
    """Return the rows of a .csv or .jsonl file of scores; empty cells are None."""
    with path.open(newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def keep_first_shard(out: Path) -> None:
    """Remove all shards but the first, as if the run was stopped after it."""
    _, *others = sorted(out.glob("rows-*"))
    assert others
    for shard in others:
        shard.unlink()
