"""Compare fast and int8 scoring on a CPU with plain autocast, on a machine whose speed varies.

    python tools/bench_autocast.py [--rounds 12]

Builds the full-size model with seeded weights. Each round scores the same 8 images in four ways, one after
the other: plain PyTorch under autocast in bfloat16 from tensors; the same with weights that were converted
once; fast and int8 from JPEG files of 512 px. The ratios are of one round each; the tool prints their median
and quartiles. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from scoring_baselines import for_autocast
from scoring_workload import PROMPTS, build, varied_images

import reward_core as RM

BATCH = 8
BASELINES = ("autocast", "autocast, weights converted once")


def make_works(folder: Path) -> dict[str, Callable[[], object]]:
    """Return a function for each way of scoring a batch."""
    exact = build("full", folder)
    exact.save_pretrained(folder / "model")
    fast, int8 = (RM.load(folder / "model", device="cpu", precision=p) for p in ("fast", "int8"))
    fast.warm_up(BATCH)
    images = varied_images(BATCH, 512)
    files = [folder / f"{i}.jpg" for i in range(BATCH)]
    for image, file in zip(images, files):
        image.save(file, quality=90)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(BATCH)]
    pixels = torch.stack([exact.transform.from_pil(image) for image in images])  # (8, 3, 224, 224)
    token_ids, mask = exact.tokenizer(prompts)

    def under_autocast(model: RM.RewardModel) -> Callable[[], object]:
        def score() -> object:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                return model(pixels, token_ids, mask)

        return score

    return {
        BASELINES[0]: under_autocast(exact),
        BASELINES[1]: under_autocast(for_autocast(exact, torch.bfloat16)),
        "fast, from files": lambda: fast.score_pairs(prompts, files),
        "int8, from files": lambda: int8.score_pairs(prompts, files),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12, help="rounds, 2 or more (default: %(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        works = make_works(Path(folder))
        for work in works.values():
            work()
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                started = perf_counter()
                work()
                seconds[name].append(perf_counter() - started)
    result: dict[str, object] = {
        "images_per_s": {name: round(BATCH / statistics.median(took), 2) for name, took in seconds.items()}
    }
    for baseline in BASELINES:
        ratios = {}
        for name in works:
            quotients = [slow / own for slow, own in zip(seconds[baseline], seconds[name])]
            ratios[name] = [round(q, 2) for q in statistics.quantiles(quotients, n=4)]
        result[f"times {baseline} (quartiles)"] = ratios
    for key, values in result.items():
        print(key, values, sep=": ")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
