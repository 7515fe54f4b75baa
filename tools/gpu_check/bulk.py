"""From JPEG files to scores: a bulk run beside score_pairs from files and from tensors."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

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
SIDE = 512


def main() -> None:
    stage = Stage.from_command_line()
    folder = Path(tempfile.mkdtemp(dir=stage.work))
    with stage.finding("files") as found:
        files = write_files(folder, 8192 if stage.full else 16, 16 if stage.full else 4)
        found["count"] = len(files)
    name = saved_model(stage)
    measure_model(stage, name, files)
    for used in ("processes", "threads"):
        with stage.finding(f"bulk run, fast, {used}") as found:
            settings = BulkSettings(model=name, devices=(str(stage.device),), precision="fast", decoders=used)
            run = score_to_file(Manifest(folder / "rows.csv"), folder / f"{used}.csv", settings)
            found |= {"rows_per_s": round(run.rows_per_second, 1), "seconds": round(run.seconds, 1)}
            found |= {"scored": run.scored, "failed": run.failed}


def measure_model(stage: Stage, name: str, files: list[str]) -> None:
    """Measure loading, single scores and score_pairs of a model."""
    with stage.finding("load") as found:
        started = perf_counter()
        model = RM.load(name, device=str(stage.device), precision="fast")
        found["load_s"] = round(perf_counter() - started, 2)
        found["first_score_s"] = round(stage.seconds(lambda: model.score(PROMPT, files[0])), 3)
        found["one_score_ms"] = round(1e3 * stage.median_seconds(lambda: model.score(PROMPT, files[0])), 2)
    prompts = [PROMPT] * len(files)
    with stage.finding("score_pairs, images/s") as found:
        batch = [model.transform.prepare(Image.open(file)) for file in files[: stage.batch]]
        levels = torch.stack(batch).to(stage.device).repeat(len(files) // stage.batch, 1, 1, 1)
        tokens = model.tokenizer(prompts[: stage.batch])
        if stage.on_gpu:
            model.warm_up(stage.batch)
        for _ in range(2):  # the first is the warm-up
            took = stage.seconds(lambda: score_levels(model, levels, tokens))
        found["from levels on the device"] = round(len(levels) / took, 1)
        for used in ("processes", "threads"):
            decoders.default_decoders = used
            for size in (64, 256) if stage.full else (4,):
                took = stage.seconds(lambda size=size: model.score_pairs(prompts, files, batch_size=size))
                found[f"from files by {used}, batches of {size}"] = round(len(files) / took, 1)
        decoders.default_decoders = "auto"
        if stage.on_gpu:
            model.resize_on_device = False
            took = stage.seconds(lambda: model.score_pairs(prompts, files))
            found["from files, resized by Pillow"] = round(len(files) / took, 1)


@torch.no_grad()
def score_levels(model: RM.RewardModel, levels: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """Score levels on the device in batches that all have the same prompts."""
    steps = steps_of(model, recorded=True)
    return torch.cat([steps(part, *tokens) for part in levels.split(len(tokens[0]))]).cpu()


def write_files(folder: Path, count: int, different: int) -> list[str]:
    """Write JPEG files and a manifest of all of them; return the files."""
    images = [detailed_image(SIDE, seed) for seed in range(different)]

    def save(i: int) -> str:
        file = folder / f"{i}.jpg"
        images[i % different].save(file, quality=90 + i % 5)
        return str(file)

    with ThreadPoolExecutor() as pool:
        files = list(pool.map(save, range(count)))
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as manifest:
        rows = csv.writer(manifest)
        rows.writerow(("prompt", "image"))
        rows.writerows((PROMPT, Path(file).name) for file in files)
    return files


if __name__ == "__main__":
    main()
