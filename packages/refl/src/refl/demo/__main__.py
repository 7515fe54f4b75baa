"""Fine-tune the bundled tiny pipeline and measure whether its images improve.

``python -m refl.demo`` trains on a CPU with the bundled tiny reward. A control run uses the same data, steps
and rollouts without the reward's loss. Then base, control and fine-tuned model generate images of unseen
prompts, and ShapesBench's oracle, which knows the right answer and is not used in training, scores them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reward_core.errors import RewardCoreError
from reward_core.files.json_file import write_json
from reward_core.printing.command_line import CommandParser, run_command_line
from reward_core.printing.escapes import printable
from reward_core.printing.terminal import PlainTable, plain_console, print_table
from reward_core.runs.run_lock import folder_lock

from .figures import draw_curve, draw_grid
from .recipe import (
    PIPELINE,
    SHORT_ROLLOUTS,
    SMALL,
    DemoSize,
    control_config,
    demo_config,
    make_trainer,
    unseen_prompts,
    write_images,
)
from .study import ScoredImages, report, run_environment, score_model, validation_curve

SIZES = {"full": DemoSize(), "small": SMALL, "short-rollouts": SHORT_ROLLOUTS}

logger = logging.getLogger("refl.demo")  # under this name also when run as a module


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m refl.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("refl-demo"), help="output folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts, noise and data order")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="run only a few steps, as a quick test")
    size.add_argument(
        "--short-rollouts",
        action="store_true",
        help="generate training images in half as many denoising steps, and take more optimizer steps",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    name = "small" if args.small else "short-rollouts" if args.short_rollouts else "full"
    out = args.out / name / f"seed-{args.seed}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"Cannot write to '{args.out}': {error.strerror}.")
    interrupted = "interrupted; run the same command to resume"
    run = partial(_run, args, out, SIZES[name])
    return run_command_line("refl.demo", run, {RewardCoreError: 1}, interrupted)


def _run(args: argparse.Namespace, out: Path, size: DemoSize) -> int:
    with folder_lock(out, ".demo.lock"):
        results = run_demo(out, size, args.seed)
    if args.json:
        print(json.dumps(results, indent=1))
    else:
        show(results, out, plain_console())
    return 0


def run_demo(out: Path, size: DemoSize, seed: int) -> dict[str, Any]:
    """Run both trainings and compare the models. Resumes an interrupted demo.

    Args:
        out: output folder.
        size: how much to train and compare.
        seed: seed of prompts, noise and data order.

    Returns:
        The contents of report.json.
    """
    started = time.perf_counter()
    data = out / "pictures.tar"
    write_images(data, size.images, seed, size.pair_share)
    config = demo_config(out / "refl", data, size, seed)
    configs = {"refl": config, "control": control_config(demo_config(out / "control", data, size, seed))}
    curves, trainers = {}, {}
    for name, run_config in configs.items():
        logger.info(f"{name}: {run_config.run.steps} steps")
        trainers[name] = trainer = make_trainer(run_config, size, seed)
        trainer.train()
        curves[name] = validation_curve(trainer.metrics.read())
    prompts = unseen_prompts(size.unseen_prompts, seed)
    folders = {"base": PIPELINE, "control": out / "control" / "model", "refl": out / "refl" / "model"}
    models: dict[str, ScoredImages] = {}
    with _bar(len(folders) * len(prompts)) as advance:
        for name, folder in folders.items():
            models[name] = score_model(folder, prompts, advance)
    state = trainers["refl"].state
    results = report(
        models["base"], models["control"], models["refl"], curves, state.best_step, state.stopped
    ) | run_environment(started, config)
    draw_grid(out / "grid.png", prompts, models)
    draw_curve(out / "curve.png", curves, state.best_step)
    write_json(out / "report.json", results)
    return results


def show(results: dict[str, Any], out: Path, console: Console) -> None:
    """Print the results as a table and a few lines."""
    table = PlainTable("mean [95% interval]", "base", "control", "ReFL")
    table.title = f"{results['prompts']} unseen prompts"
    for key, title in (
        ("reward", "learned reward (tiny)"),
        ("judge", "held-out reward (tiny-judge)"),
        ("oracle", "truth (the oracle's utility)"),
        ("alignment", "truth, alignment with the prompt only"),
    ):
        cells = []
        for side in ("before", "control", "after"):
            low, high = results["intervals"][f"{key}_{side}"]
            cells.append(f"{results[f'{key}_{side}']:.3f} [{low:.3f}, {high:.3f}]")
        table.add_row(title, *cells)
    print_table(table)
    for suffix, opponent in (("", "the base"), ("_control", "the control")):
        rate, low, high = (results[f"{name}{suffix}"] for name in ("win_rate", "win_low", "win_high"))
        console.print(
            f"win rate of ReFL's images against {opponent}, by truth: {rate:.1%} [{low:.1%}, {high:.1%}]"
        )
    console.print(
        f"saved step {results['stopped_step']} with a validation truth of {results['stopped_truth']:.3f}; "
        f"the best validation had {results['best_truth']:.3f}"
    )
    if results["stopped"]:
        console.print(printable(f"stopped early: {results['stopped']}"))
    files = f"{out / 'grid.png'}, {out / 'curve.png'} and {out / 'report.json'}"
    console.print(printable(f"wrote {files} in {results['seconds'] / 60:.1f} minutes"))


@contextmanager
def _bar(total: int) -> Iterator:
    console = plain_console(stderr=True)
    columns = [TextColumn("comparing"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, advance=count)


if __name__ == "__main__":
    sys.exit(main())
