"""Measure savings and losses of dropping best-of-n candidates early.

    python tools/bench_best_of.py PIPELINE --scorer tiny [--prompts FILE] [-n 16] [--plan 0.5:0.5] ...

PIPELINE is a folder or Hub id for diffusers. The tool generates n images per prompt without dropping, then
with each plan, from the same seeds. The table shows the best reward of each plan, and the expected best
reward of a plain best-of-m with the same number of denoiser evaluations. It also shows how well rewards
predicted at each step agree with those of the finished images (Kendall's tau, mean over prompts).
The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import reward_core as RM
from reward_core import shapes
from reward_core.integrations.diffusers import BestOf, DropPlan, best_of

PLANS = ("0.5:0.5", "0.5:0.25", "0.3:0.5", "0.3:0.5,0.6:0.25", "0.7:0.25")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", metavar="PIPELINE")
    parser.add_argument("--scorer", default="ImageReward-v1.0", help="name or folder (default: %(default)s)")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one prompt per line (default: of ShapesBench)"
    )
    parser.add_argument("--count", type=int, default=16, help="number of prompts (default: %(default)s)")
    parser.add_argument("-n", type=int, default=16, help="candidates per prompt (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="default: the pipeline's")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image side (default: the pipeline's)")
    parser.add_argument("--plan", action="append", metavar="AT:KEEP,...", help=f"default: {'; '.join(PLANS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    pipe = load_pipeline(args.pipeline, args.device)
    scorer = RM.load(args.scorer, device=args.device)
    prompts = read_prompts(args)
    call: dict[str, Any] = {"num_inference_steps": args.steps}
    if args.guidance is not None:
        call["guidance_scale"] = args.guidance
    if args.size is not None:
        call.update(height=args.size, width=args.size)

    def run(plan: DropPlan | None) -> tuple[list[BestOf], Cost]:
        wall, processor = perf_counter(), process_time()
        with count_rows(pipe) as rows:
            results = best_of(
                pipe, prompts, args.n, scorer, seed=args.seed, batch_size=args.batch_size, early=plan, **call
            )
        return results, Cost(perf_counter() - wall, process_time() - processor, rows[0])

    best_of(pipe, prompts[:1], min(args.n, 2), scorer, early=DropPlan(), **call)  # warm-up
    full, cost = run(None)
    plans = {text: parse_plan(text) for text in args.plan or PLANS}
    document = {
        "pipeline": args.pipeline, "scorer": args.scorer, "prompts": len(prompts), "n": args.n,
        "steps": args.steps, "device": args.device, "machine": platform.processor() or platform.machine(),
        "best": mean(r.best.reward for r in full), "mean": mean(x for r in full for x in r.rewards),
        "spread": mean(stdev(r.rewards) for r in full) if args.n > 1 else 0.0,
        "wall_s": cost.wall, "processor_s": cost.processor, "denoiser_rows": cost.rows, "plans": [],
    }  # fmt: skip
    for text, plan in plans.items():
        results, plan_cost = run(plan)
        document["plans"].append({"plan": text, **compare(full, results, plan_cost.shares_of(cost))})
    document["agreement"] = agreement(full, run(DropPlan([i / 10 for i in range(1, 10)], [1] * 9))[0])
    show(document)
    print(json.dumps(document))


def load_pipeline(name: str, device: str) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(name).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read_prompts(args: argparse.Namespace) -> list[str]:
    if args.prompts:
        lines = args.prompts.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip()][: args.count]
    # Only prompts that the bundled pipeline knows: things without a named size, or big ones.
    rng, prompts = np.random.default_rng(args.seed), []
    while len(prompts) < args.count:
        prompt = shapes.phrase(shapes.sample_scene(rng), rng)
        if "small" not in prompt:
            prompts.append(prompt)
    return prompts


def parse_plan(text: str) -> DropPlan:
    pairs = [pair.split(":") for pair in text.split(",")]
    return DropPlan(tuple(float(at) for at, _ in pairs), tuple(float(keep) for _, keep in pairs))


@dataclass(frozen=True)
class Cost:
    wall: float  # seconds
    processor: float  # seconds of all threads; not meaningful on a GPU
    rows: int  # batch rows that the denoiser computed, including those of guidance

    def shares_of(self, full: Cost) -> dict[str, float]:
        return {
            "denoiser": self.rows / full.rows,
            "wall": self.wall / full.wall,
            "processor": self.processor / full.processor,
        }


class count_rows:
    """Counts the rows that the denoiser computes, including those of guidance."""

    def __init__(self, pipe: Any):
        self.module = getattr(pipe, "unet", None) or pipe.transformer

    def __enter__(self) -> list[int]:
        rows = [0]

        def count(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
            rows[0] += len(output[0])

        self.hook = self.module.register_forward_hook(count, with_kwargs=True)
        return rows

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()


def compare(full: list[BestOf], early: list[BestOf], shares: dict[str, float]) -> dict[str, Any]:
    """Return the results of a plan, with its costs as shares of the full run."""
    losses = [a.best.reward - b.best.reward for a, b in zip(full, early)]
    return {
        **shares,
        "best": mean(b.best.reward for b in early),
        "loss": mean(losses),
        "loss_se": stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else None,
        "same_winner": mean(a.best.seed == b.best.seed for a, b in zip(full, early)),
        "best_of_m_at_equal_compute": mean(
            expected_best(r.rewards, shares["denoiser"] * len(r.rewards)) for r in full
        ),
    }


def expected_best(rewards: Sequence[float], m: float) -> float:
    """Return the expected maximum of m rewards drawn without replacement."""
    ranked, n = sorted(rewards), len(rewards)

    def expected(m: int) -> float:
        return sum(ranked[i] * comb(i, m - 1) for i in range(m - 1, n)) / comb(n, m)

    low = min(max(int(m), 1), n)
    high = min(low + 1, n)
    return expected(low) + (expected(high) - expected(low)) * min(max(m - low, 0.0), 1.0)


def agreement(full: list[BestOf], predicted_runs: list[BestOf]) -> dict[int, float]:
    """Return finished steps -> Kendall's tau of predicted and final rewards."""
    taus: dict[int, list[float]] = {}
    for full_run, predicted_run in zip(full, predicted_runs):
        finished = np.array(full_run.rewards)
        for k, (done, _) in enumerate(predicted_run.candidates[0].predictions):
            predicted = np.array([c.predictions[k][1] for c in predicted_run.candidates])
            pairs = np.triu_indices(len(finished), 1)
            signs = np.sign(np.subtract.outer(finished, finished) * np.subtract.outer(predicted, predicted))
            taus.setdefault(done, []).append(float(signs[pairs].mean()) if len(pairs[0]) else 1.0)
    return {done: mean(values) for done, values in taus.items()}


def show(document: dict[str, Any]) -> None:
    title = f"best of {document['n']}, {document['prompts']} prompts, {document['steps']} steps"
    caption = (
        f"without dropping: best {document['best']:.3f}, mean {document['mean']:.3f}, "
        f"standard deviation within a prompt {document['spread']:.3f}, {document['wall_s']:.1f} s"
    )
    columns = (
        "plan",
        "denoiser",
        "wall",
        "processor",
        "best",
        "loss",
        "s.e.",
        "same best",
        "plain best of m",
    )
    table = Table(*columns, title=title, caption=caption)
    for plan in document["plans"]:
        error = "" if plan["loss_se"] is None else f"{plan['loss_se']:.3f}"
        costs = [f"{plan[name]:.0%}" for name in ("denoiser", "wall", "processor")]
        rewards = [f"{plan['best']:.3f}", f"{plan['loss']:.3f}", error, f"{plan['same_winner']:.0%}"]
        table.add_row(plan["plan"], *costs, *rewards, f"{plan['best_of_m_at_equal_compute']:.3f}")
    console = Console(width=110)
    console.print(table)
    taus = ", ".join(f"{done}: {tau:.2f}" for done, tau in document["agreement"].items())
    console.print(f"tau between predicted and final rewards, by finished steps: {taus}", highlight=False)


if __name__ == "__main__":
    main()
