"""Small rankings that a model can learn: gray images with prompts for light or dark ones."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_rankings(folder: Path, name: str, count: int, seed: int, images: int | None = None) -> list[dict]:
    """Write FOLDER/NAME.json and its images: 2 to 6 per prompt, or ``images`` if given."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(count):
        size = images or int(rng.integers(2, 7))
        levels = rng.permutation(np.linspace(20, 235, size)).astype(int)
        light = bool(rng.integers(2))
        ranks = np.argsort(np.argsort(-levels if light else levels)) + 1
        names = []
        for k, level in enumerate(levels):
            names.append(f"{name}/{i}_{k}.png")
            pixels = np.clip(rng.normal(level, 4, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / names[-1])
        prompt = "light day" if light else "dark night"
        records.append(
            {"id": f"{name}-{i}", "prompt": prompt, "generations": names, "ranking": ranks.tolist()}
        )
    write_json(folder / f"{name}.json", records)
    return records


def write_json(path: Path, records: list[dict]) -> None:
    path.write_text(json.dumps(records), encoding="utf-8")
