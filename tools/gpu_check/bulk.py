"""From JPEG files to scores: a bulk run beside score_pairs from files and from tensors.

Rates from files leave out what a run starts with: processes that decode, and the first batches. For
score_pairs they are those of the additional files of a long run beside a short one, for a bulk run those of
the rows after the first ones.

A long run takes several seconds, so the list of files is repeated. At full size each repetition is decoded
and encoded again: score_pairs caches no images, and a bulk run caches them within a shard, which is shorter
than the list. Threads are slower, so they get fewer files.
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
REPEATS = 3  # of the list of files
SIZES = {
    "512 px": [(512, 512)],
    "mixed sizes": [(512, 512), (640, 480), (768, 768), (768, 1024), (1024, 1024), (1600, 1200)],
}


def main() -> None:
    stage = Stage.from_command_line()
    files: dict[str, list[str]] = {}
    with stage.finding("files") as found:
        for sizes, count in (("512 px", 8192), ("mixed sizes", 1024)):
            folder = Path(tempfile.mkdtemp(dir=stage.work))
            files[sizes] = write_files(folder, SIZES[sizes], count if stage.full else 16)
            found[sizes] = len(files[sizes])
    name = saved_model(stage)
    model = loaded(stage, name, files["512 px"])
    measure_processes(stage, model, files["512 px"] * REPEATS, files["mixed sizes"] * REPEATS)
    measure_bulk(stage, name, files["512 px"] * REPEATS)
    measure_threads(stage, model, files["512 px"])


def measure_processes(stage: Stage, model: RM.RewardModel, files: list[str], mixed: list[str]) -> None:
    """Measure score_pairs of files that processes decode."""
    with stage.finding("score_pairs from files, images/s, processes") as found:
        decoders.default_decoders = "processes"
        score = partial(pairs_seconds, stage, model, stage.batch)
        score(files[: stage.batch])  # a first start of processes takes longer than later ones
        for size in batch_sizes(stage):
            score = partial(pairs_seconds, stage, model, size)
            add_rate(found, f"512 px, batches of {size}", score, files, len(files) // 12)
        score = partial(pairs_seconds, stage, model, stage.batch)
        add_rate(found, f"mixed sizes, batches of {stage.batch}", score, mixed, len(mixed) // 6)
        decoders.default_decoders = "auto"


def measure_threads(stage: Stage, model: RM.RewardModel, files: list[str]) -> None:
    """Measure score_pairs of files that threads decode."""
    with stage.finding("score_pairs from files, images/s, threads") as found:
        decoders.default_decoders = "threads"
        score = partial(pairs_seconds, stage, model, stage.batch)
        files = files[: len(files) // 4]
        add_rate(found, f"512 px, batches of {stage.batch}", score, files, len(files) // 4)
        if stage.on_gpu:
            model.resize_on_device = False
            files = files[: len(files) // 2]
            add_rate(found, "512 px, resized by Pillow", score, files, len(files) // 4)
            model.resize_on_device = True
        decoders.default_decoders = "auto"


def add_rate(
    found: dict[str, Any], name: str, seconds: Callable[[list[str]], float], files: list[str], few: int
) -> None:
    """Store files a second, and the seconds of both runs.

    Args:
        found: where to store them.
        name: name of the rate; None is stored if the short run took as long as the long one.
        seconds: function that scores files and returns how long it took.
        files: files of the long run.
        few: number of files of the short run.
    """
    took = [seconds(files[:few]), seconds(files)]
    more = took[1] - took[0]
    found[name] = round((len(files) - few) / more, 1) if more > 0 else None
    found[f"{name}: seconds"] = [round(one, 2) for one in took]


def measure_bulk(stage: Stage, name: str, files: list[str]) -> None:
    """Measure a bulk run from its reports of progress, which come after each batch."""
    with (
        stage.finding("bulk run, fast, 512 px, processes") as found,
        tempfile.TemporaryDirectory(dir=stage.work) as folder,
    ):
        settings = BulkSettings(
            model=name, devices=(str(stage.device),), precision="fast", decoders="processes"
        )
        manifest = Path(folder) / "rows.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("prompt", "image"), *((PROMPT, name) for name in files)])
        reports: list[tuple[float, int]] = []

        def report(rows: int, done: int, failed: int) -> None:
            reports.append((perf_counter(), done))

        run = score_to_file(Manifest(manifest), Path(folder) / "scores.csv", settings, on_progress=report)
        started, first = next(one for one in reports if one[1] >= len(files) / 12)
        ended, last = reports[-1]
        found["rows_per_s"] = round((last - first) / (ended - started), 1)
        found |= {"seconds": round(run.seconds, 1), "scored": run.scored, "failed": run.failed}
        found["encoded"] = run.pictures_encoded


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
        score_levels(model, levels[: len(levels) // 4], tokens)  # the warm-up
        took = stage.seconds(lambda: score_levels(model, levels, tokens))
        found["from levels on the device"] = round(len(levels) / took, 1)
    return model


def batch_sizes(stage: Stage) -> tuple[int, ...]:
    return (stage.batch, 256) if stage.full else (stage.batch,)


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
