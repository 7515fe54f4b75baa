"""Compare the strategies of refl on the bundled tiny pipeline at equal compute.

    python tools/compare_strategies.py --out runs/strategies [--steps 60] [--seed 0] [--strategies refl draft]

Compute is counted in denoiser passes per image: 1 without gradient and 3 with gradient, doubled by guidance.
The passes of the ordinary loss on captioned images count too. Each strategy takes as many optimizer steps
as fit into the passes of ReFL's run. All other settings are those of refl.demo. Every run is a separate
process, so that its peak memory can be measured. Finished runs are not repeated. Writes strategies.json and
prints a Markdown table of truth, rewards, speed and memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from refl.compare import compare_rewards
from refl.config import TrainConfig
from refl.demo.recipe import (
    HELD_OUT_REWARD,
    PIPELINE,
    REWARD,
    TRUTH,
    DemoSize,
    demo_config,
    make_trainer,
    unseen_prompts,
    write_images,
)
from refl.demo.study import run_environment, score_model
from refl.demo.truth import interval
from refl.strategies import StrategyConfig
from reward_core.files.atomic_write import atomic_write
from reward_core.files.json_file import write_json

BACKWARD = 2  # extra passes that a gradient costs
STRATEGIES = {
    "refl": StrategyConfig("refl", first=6, last=15),
    "draft": StrategyConfig("draft", k=1),
    "draft-lv": StrategyConfig("draft-lv", copies=2),
    "alignprop": StrategyConfig("alignprop"),
    "drtune": StrategyConfig("drtune", first=6, last=15, k=3),
}


def passes(strategy: StrategyConfig, config: TrainConfig, count: int = 500) -> float:
    """Return the denoiser passes of one step, averaged over ``count`` plans."""
    rollout, loss = config.rollout, config.loss
    plans = [strategy.plan(rollout.steps, random.Random(f"{config.run.seed} {n}")) for n in range(count)]
    costs = [plan.cost() for plan in plans]
    without, with_gradient = 1, 1 + BACKWARD
    if rollout.guidance_scale > 1:
        without, with_gradient = 2, with_gradient + (with_gradient if rollout.negative_gradient else 1)
    rollouts = fmean(without * plain + with_gradient * graded for plain, graded in costs)
    ordinary = loss.pretraining_batch_size * (1 + BACKWARD) if loss.pretraining_data else 0
    return config.run.batch_size * rollouts + ordinary


def run_one(name: str, out: Path, steps: int, size: DemoSize, seed: int) -> None:
    """Train and evaluate one strategy; write the results to out/NAME/row.json."""
    started = time.perf_counter()
    config = demo_config(out / name, out / "pictures.tar", size, seed)
    config = replace(
        config,
        strategy=STRATEGIES[name],
        run=replace(config.run, steps=steps),
        # Compare the last weights, not those of the best validation.
        validation=replace(config.validation, every=0, stop_reward="", stop_diversity=0.0, keep_best=False),
    )
    trainer = make_trainer(config, size, seed)
    trainer.train()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    prompts = unseen_prompts(size.unseen_prompts, seed)
    base, tuned = base_scores(out, prompts), score_model(out / name / "model", prompts).scores
    won = compare_rewards(TRUTH, base[TRUTH], tuned[TRUTH])
    speeds = [row["images_per_s"] for row in trainer.metrics.read() if "images_per_s" in row]
    row = {
        "strategy": name,
        "steps": steps,
        "passes_per_step": passes(STRATEGIES[name], config),
        "samples_per_s": median(speeds),
        "training_seconds": steps * size.batch_size / median(speeds),
        "peak_memory_mb": memory,
        "win_rate": [won.win_rate, won.win_rate_low, won.win_rate_high],
        **{f"{key}_before": interval(base[key]) for key in (TRUTH, REWARD, HELD_OUT_REWARD)},
        **{f"{key}_after": interval(tuned[key]) for key in (TRUTH, REWARD, HELD_OUT_REWARD)},
        **run_environment(started, config),
    }
    write_json(out / name / "row.json", row)


def base_scores(out: Path, prompts: list[str]) -> dict[str, np.ndarray]:
    """Return the base model's scores, computed once for all strategies."""
    file = out / "base.npz"
    if not file.is_file():
        with atomic_write(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **score_model(PIPELINE, prompts).scores)
    return dict(np.load(file))


def check_settings(file: Path, settings: dict[str, int]) -> None:
    """Exit if the folder has runs of other settings."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    if before != settings:
        raise SystemExit(
            f"Cannot compare strategies in '{file.parent}': it has runs with {before}, not {settings}. Give "
            "another --out."
        )
    write_json(file, settings)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| strategy | steps | truth | learned reward | held-out reward | win rate against the base, by truth "
        "| samples/s | training s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = rows[0]
    lines.append(
        f"| (base) | 0 | {_span(first, TRUTH, 'before')} | {_span(first, REWARD, 'before')} "
        f"| {_span(first, HELD_OUT_REWARD, 'before')} | | | | |"
    )
    for row in rows:
        rate, low, high = row["win_rate"]
        lines.append(
            f"| {row['strategy']} | {row['steps']} | {_span(row, TRUTH)} | {_span(row, REWARD)} "
            f"| {_span(row, HELD_OUT_REWARD)} | {rate:.0%} [{low:.0%}, {high:.0%}] "
            f"| {row['samples_per_s']:.2f} | {row['training_seconds']:.0f} | {row['peak_memory_mb']:.0f} |"
        )
    return "\n".join(lines)


def _span(row: dict[str, Any], key: str, side: str = "after") -> str:
    mean, low, high = row[f"{key}_{side}"]
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--steps", type=int, default=DemoSize().steps, help="steps of ReFL (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unseen-prompts", type=int, default=DemoSize().unseen_prompts)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--one", metavar="STEPS", type=int, help=argparse.SUPPRESS)  # run one strategy
    args = parser.parse_args()
    size = replace(DemoSize(), unseen_prompts=args.unseen_prompts)
    args.out.mkdir(parents=True, exist_ok=True)
    check_settings(
        args.out / "asked.json", {name: getattr(args, name) for name in ("seed", "steps", "unseen_prompts")}
    )
    write_images(args.out / "pictures.tar", size.images, args.seed)
    if args.one is not None:
        run_one(args.strategies[0], args.out, args.one, size, args.seed)
        return
    config = demo_config(args.out, args.out / "pictures.tar", size, args.seed)
    budget = args.steps * passes(STRATEGIES["refl"], config)
    rows = []
    for name in args.strategies:
        steps = max(1, round(budget / passes(STRATEGIES[name], config)))
        file = args.out / name / "row.json"
        if not file.is_file():
            print(f"{name}: {steps} steps", file=sys.stderr)
            options = ["--out", args.out, "--seed", args.seed, "--steps", args.steps]
            options += ["--unseen-prompts", args.unseen_prompts]
            command = [sys.executable, __file__, *options, "--strategies", name, "--one", steps]
            subprocess.run(list(map(str, command)), check=True)
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    write_json(args.out / "strategies.json", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
