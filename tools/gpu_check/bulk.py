"""From JPEG files to scores: a bulk run beside score_pairs from files and from tensors.

Rates from files are those of the additional files of a longer run beside a shorter one, which leaves out what
a run starts with: processes that decode, and the first batches. Threads are slower, so they get fewer files.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.scoring import decoders

from .decoding import detailed_image
from .measure import Stage
from .models import saved_model, steps_of

PROMPT = "a red house by the ocean"
SIZES = {
    "512 px": [(512, 512)],
    "mixed sizes": [(512, 512), (640, 480), (768, 768), (768, 1024), (1024, 1024), (1600, 1200)],
}


def main() -> None:
    stage = Stage.from_command_line()
    files: dict[str, list[str]] = {}
    with stage.finding("files") as found:
        for sizes, count in (("512 px", 8192), ("mixed sizes", 2048)):
            folder = Path(tempfile.mkdtemp(dir=stage.work))
            files[sizes] = write_files(folder, SIZES[sizes], count if stage.full else 16)
            found[sizes] = len(files[sizes])
    name = saved_model(stage)
    model = loaded(stage, name, files["512 px"])
    measure_files(stage, model, files, "processes")
    measure_bulk(stage, name, "512 px", "processes", files)
    measure_files(stage, model, files, "threads")
    measure_bulk(stage, name, "mixed sizes", "processes", files)
    measure_bulk(stage, name, "512 px", "threads", files)


def measure_bulk(stage: Stage, name: str, sizes: str, used: str, files: dict[str, list[str]]) -> None:
    """Measure a bulk run."""
    with stage.finding(f"bulk run, fast, {sizes}, {used}") as found:
        settings = BulkSettings(model=name, devices=(str(stage.device),), precision="fast", decoders=used)
        found["rows_per_s"] = rate(partial(bulk_seconds, settings, found), files[sizes], used)


def rate(seconds: Callable[[list[str]], float], files: list[str], used: str) -> float | None:
    """Return files a second, or None if a quarter of the files took as long as all of them.

    Args:
        seconds: function that scores files and returns how long it took.
        files: the files.
        used: "threads" or "processes".
    """
    if used == "threads":
        files = files[: len(files) // 4]
    few = files[: len(files) // 4]
    took = seconds(few)
    more = seconds(files) - took
    return round((len(files) - len(few)) / more, 1) if more > 0 else None


def bulk_seconds(settings: BulkSettings, found: dict[str, Any], files: list[str]) -> float:
    """Return the seconds of a bulk run without its start-up; store its result."""
    with tempfile.TemporaryDirectory(dir=Path(files[0]).parent) as folder:
        manifest = Path(folder) / "rows.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("prompt", "image"), *((PROMPT, name) for name in files)])
        run = score_to_file(Manifest(manifest), Path(folder) / "scores.csv", settings)
    found |= {"seconds": round(run.seconds, 1), "scored": run.scored, "failed": run.failed}
    return run.scored / run.rows_per_second


def loaded(stage: Stage, name: str, files: list[str]) -> RM.RewardModel:
    """Return the model with recorded graphs; measure loading, single scores and levels on the device."""
    with stage.finding("load") as found:
        started = perf_counter()
        model = RM.load(name, device=str(stage.device), precision="fast")
        found["load_s"] = round(perf_counter() - started, 2)
        found["first_score_s"] = round(stage.seconds(lambda: model.score(PROMPT, files[0])), 3)
        took = stage.median_seconds(lambda: model.score(PROMPT, files[0]))
        found["one_score_ms"] = round(1e3 * took, 2)
    with stage.finding("score_pairs, images/s") as found:
        if stage.on_gpu:  # records graphs
            for size in batch_sizes(stage):
                model.warm_up(size)
        batch = [model.transform.prepare(Image.open(file)) for file in files[: stage.batch]]
        levels = torch.stack(batch).to(stage.device).repeat(len(files) // stage.batch, 1, 1, 1)
        tokens = model.tokenizer([PROMPT] * stage.batch)
        for _ in range(2):  # the first is the warm-up
            took = stage.seconds(lambda: score_levels(model, levels, tokens))
        found["from levels on the device"] = round(len(levels) / took, 1)
    return model


def batch_sizes(stage: Stage) -> tuple[int, ...]:
    return (stage.batch, 256) if stage.full else (stage.batch,)


def measure_files(stage: Stage, model: RM.RewardModel, files: dict[str, list[str]], used: str) -> None:
    """Measure score_pairs of files that threads or processes decode."""
    with stage.finding(f"score_pairs from files, images/s, {used}") as found:
        decoders.default_decoders = used
        for sizes in files:
            for size in batch_sizes(stage) if sizes == "512 px" else (stage.batch,):
                score = partial(pairs_seconds, stage, model, size)
                found[f"{sizes}, batches of {size}"] = rate(score, files[sizes], used)
        if stage.on_gpu:
            model.resize_on_device = False
            score = partial(pairs_seconds, stage, model, stage.batch)
            found["512 px, resized by Pillow"] = rate(score, files["512 px"], used)
            model.resize_on_device = True
        decoders.default_decoders = "auto"


def pairs_seconds(stage: Stage, model: RM.RewardModel, batch_size: int, files: list[str]) -> float:
    return stage.seconds(lambda: model.score_pairs([PROMPT] * len(files), files, batch_size=batch_size))


@torch.no_grad()
def score_levels(model: RM.RewardModel, levels: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """Score levels on the device in batches that all have the same prompts."""
    steps = steps_of(model, recorded=True)
    return torch.cat([steps(part, *tokens) for part in levels.split(len(tokens[0]))]).cpu()


def write_files(folder: Path, sizes: Sequence[tuple[int, int]], count: int) -> list[str]:
    """Write JPEG files of several sizes (width, height) in turn; return them."""
    images = []
    for seed in range(12):
        width, height = sizes[seed % len(sizes)]
        images.append(detailed_image(max(width, height), seed).crop((0, 0, width, height)))

    def save(i: int) -> str:
        file = folder / f"{i}.jpg"
        images[i % len(images)].save(file, quality=90 + i % 5)
        return str(file)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(save, range(count)))


if __name__ == "__main__":
    main()
