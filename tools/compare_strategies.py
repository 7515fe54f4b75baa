"""Compare the strategies of refl on the bundled tiny pipeline at equal compute.

    python tools/compare_strategies.py --out runs/strategies [--steps 60] [--strategies refl draft]
    python tools/compare_strategies.py --out runs/nft --seeds 0 1 2 --strategies nft nft-control
    python tools/compare_strategies.py --out runs/grpo --seeds 0 1 --strategies grpo grpo-control

Compute is counted in denoiser passes per image: 1 without gradient and 3 with gradient, doubled by guidance.
The passes of the ordinary loss on captioned images count too. Each strategy takes as many optimizer steps
as fit into the passes of ReFL's run. All other settings are those of refl.demo. Every run is a separate
process, so that its peak memory can be measured. Finished runs are not repeated, and an interrupted one
resumes. Writes strategies.json and prints a Markdown table of truth, rewards, speed and memory.

nft and grpo train on the truth itself, as a reward without gradient; nft-control and grpo-control are the
same runs with the weight 0 for the reward, so that only the ordinary loss trains them. With both, the win
rates over the control and over the base are printed for each seed.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from refl.compare import compare_rewards
from refl.config import StrategyConfig, TrainConfig
from refl.config.rollout_plans import plan_rollout
from refl.demo.recipe import (
    HELD_OUT_REWARD,
    PIPELINE,
    REWARD,
    TRUTH,
    DemoSize,
    control_config,
    demo_config,
    grpo_config,
    make_trainer,
    nft_config,
    unseen_prompts,
    write_images,
)
from refl.demo.study import run_environment, score_model
from refl.demo.truth import interval
from reward_core.files.atomic_write import atomic_write
from reward_core.files.json_file import write_json
from reward_core.runs.settings import load_settings

SCORES = "scores.npz"
BACKWARD = 2  # extra passes that a gradient costs
CONTROL = "-control"
STRATEGIES = {
    "refl": StrategyConfig("refl", first=6, last=15),
    "draft": StrategyConfig("draft", k=1),
    "draft-lv": StrategyConfig("draft-lv", copies=2),
    "alignprop": StrategyConfig("alignprop"),
    "drtune": StrategyConfig("drtune", first=6, last=15, k=3),
}
WITHOUT_GRADIENT = {"nft": nft_config, "grpo": grpo_config}
ALL = (*STRATEGIES, *WITHOUT_GRADIENT, *(name + CONTROL for name in WITHOUT_GRADIENT))


def config_of(name: str, out: Path, size: DemoSize, seed: int, changes: Sequence[str] = ()) -> TrainConfig:
    """Return the settings of a strategy's run in ``out``; they compare the last weights, not the best.

    Args:
        name: name of the strategy, or of its control.
        out: folder of the run, in the folder of its seed.
        size: size of the demo.
        seed: seed of the run.
        changes: "key=value" settings that override the recipe.
    """
    make = WITHOUT_GRADIENT.get(name.removesuffix(CONTROL), demo_config)
    config = make(out, out.parent / "pictures.tar", size, seed)
    if name in STRATEGIES:
        config = replace(config, strategy=STRATEGIES[name])
    config = load_settings(config, {}, settings=changes)
    if name.endswith(CONTROL):
        config = control_config(config)
    validation = replace(config.validation, every=0, stop_reward="", stop_diversity=0.0, keep_best=False)
    return replace(config, validation=validation)


def passes(config: TrainConfig, count: int = 500) -> float:
    """Return the denoiser passes of one step, averaged over ``count`` plans."""
    strategy, rollout, loss, run = config.strategy, config.rollout, config.loss, config.run
    without, with_gradient = 1, 1 + BACKWARD
    if rollout.guidance_scale > 1:
        without, with_gradient = 2, with_gradient + (with_gradient if rollout.negative_gradient else 1)
    if strategy.name == "nft":
        level = without + with_gradient if strategy.guided_loss else 2 + BACKWARD
        per_image = without * rollout.steps / strategy.updates + strategy.levels * level
    elif strategy.name == "grpo":
        trained = strategy.random_steps(rollout.steps) * with_gradient
        per_image = without * rollout.steps / strategy.updates + trained
    else:
        plans = [
            plan_rollout(strategy, rollout.steps, random.Random(f"{run.seed} {n}")) for n in range(count)
        ]
        costs = [plan.cost() for plan in plans]
        per_image = fmean(without * plain + with_gradient * graded for plain, graded in costs)
    ordinary = loss.pretraining_batch_size * (1 + BACKWARD) if loss.pretraining_data else 0
    return run.accumulation * (run.batch_size * per_image + ordinary)


def run_one(name: str, out: Path, steps: int, size: DemoSize, seed: int, changes: Sequence[str] = ()) -> None:
    """Train and evaluate one strategy; write the results to out/NAME/row.json."""
    started = time.perf_counter()
    config = config_of(name, out / name, size, seed, changes)
    config = replace(config, run=replace(config.run, steps=steps))
    trainer = make_trainer(config, size, seed)
    trainer.train()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    prompts = unseen_prompts(size.unseen_prompts, seed)
    base, tuned = base_scores(out, prompts), score_model(out / name / "model", prompts).scores
    write_scores(out / name / SCORES, tuned)
    won = compare_rewards(TRUTH, base[TRUTH], tuned[TRUTH])
    speeds = [row["images_per_s"] for row in trainer.metrics.read() if "images_per_s" in row]
    images = config.run.batch_size * config.run.accumulation
    row = {
        "strategy": name,
        "seed": seed,
        "steps": steps,
        "passes_per_step": passes(config),
        "samples_per_s": median(speeds),
        "training_seconds": steps * images / median(speeds),
        "peak_memory_mb": memory,
        "win_rate": [won.win_rate, won.win_rate_low, won.win_rate_high],
        **{f"{key}_before": interval(base[key]) for key in (TRUTH, REWARD, HELD_OUT_REWARD)},
        **{f"{key}_after": interval(tuned[key]) for key in (TRUTH, REWARD, HELD_OUT_REWARD)},
        **run_environment(started, config),
    }
    write_json(out / name / "row.json", row)


def against_control(row: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return a row with the win rate over its control, if that has run."""
    control = out / f"{row['strategy']}{CONTROL}" / SCORES
    if not control.is_file():
        return row
    theirs, ours = np.load(control), np.load(out / row["strategy"] / SCORES)
    won = compare_rewards(TRUTH, theirs[TRUTH], ours[TRUTH])
    return row | {"win_rate_control": [won.win_rate, won.win_rate_low, won.win_rate_high]}


def base_scores(out: Path, prompts: list[str]) -> dict[str, np.ndarray]:
    """Return the base model's scores, computed once for all strategies."""
    file = out / "base.npz"
    if not file.is_file():
        write_scores(file, score_model(PIPELINE, prompts).scores)
    return dict(np.load(file))


def write_scores(file: Path, scores: dict[str, np.ndarray]) -> None:
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **scores)


def check_settings(file: Path, settings: dict[str, Any]) -> None:
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
        "| strategy | seed | steps | truth | learned reward | held-out reward "
        "| win rate against the base, by truth | against the control | samples/s | training s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed in dict.fromkeys(row["seed"] for row in rows):
        first = next(row for row in rows if row["seed"] == seed)
        spans = " | ".join(_span(first, key, "before") for key in (TRUTH, REWARD, HELD_OUT_REWARD))
        lines.append(f"| (base) | {seed} | 0 | {spans} | | | | | |")
    for row in rows:
        spans = " | ".join(_span(row, key) for key in (TRUTH, REWARD, HELD_OUT_REWARD))
        lines.append(
            f"| {row['strategy']} | {row['seed']} | {row['steps']} | {spans} | {_rate(row, 'win_rate')} "
            f"| {_rate(row, 'win_rate_control')} | {row['samples_per_s']:.2f} "
            f"| {row['training_seconds']:.0f} | {row['peak_memory_mb']:.0f} |"
        )
    return "\n".join(lines)


def _rate(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return ""
    rate, low, high = row[key]
    return f"{rate:.0%} [{low:.0%}, {high:.0%}]"


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--unseen-prompts", type=int, default=DemoSize().unseen_prompts)
    parser.add_argument("--strategies", nargs="+", choices=ALL, default=list(STRATEGIES))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="setting that overrides the recipe, such as optimizer.lr=5e-5 (repeatable)",
    )
    parser.add_argument("--one", metavar="STEPS", type=int, help=argparse.SUPPRESS)  # run one strategy
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(args, name) for name in ("steps", "unseen_prompts", "changes")}
    check_settings(args.out / "asked.json", asked)
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        out = args.out / f"seed-{seed}"
        out.mkdir(exist_ok=True)
        size = replace(DemoSize(), unseen_prompts=args.unseen_prompts)
        write_images(out / "pictures.tar", size.images, seed)
        if args.one is not None:
            run_one(args.strategies[0], out, args.one, size, seed, args.changes)
            return
        rows += run_seed(args, out, size, seed)
        rows = [against_control(row, args.out / f"seed-{row['seed']}") for row in rows]
        write_json(args.out / "strategies.json", rows)
    print(table(rows))


def run_seed(args: argparse.Namespace, out: Path, size: DemoSize, seed: int) -> list[dict[str, Any]]:
    """Run the strategies of one seed that have not run yet; return the rows of all."""
    budget = args.steps * passes(config_of("refl", out / "refl", size, seed))
    rows = []
    for name in args.strategies:
        steps = max(1, round(budget / passes(config_of(name, out / name, size, seed, args.changes))))
        file = out / name / "row.json"
        if not file.is_file():
            print(f"seed {seed}, {name}: {steps} steps", file=sys.stderr)
            options = ["--out", args.out, "--seeds", seed, "--steps", args.steps]
            options += ["--unseen-prompts", args.unseen_prompts]
            options += [word for change in args.changes for word in ("--set", change)]
            command = [sys.executable, __file__, *options, "--strategies", name, "--one", steps]
            subprocess.run(list(map(str, command)), check=True)
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    return rows


if __name__ == "__main__":
    main()
