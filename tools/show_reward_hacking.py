"""Show reward hacking on the tiny pipeline, and what prevents it.

    python tools/show_reward_hacking.py --out runs/hacking [--steps 700] [--seed 0] [--arms none distance]
    python tools/show_reward_hacking.py --out runs/hacking-nft --strategy nft --steps 176 --every 22 \\
        --arms none

All runs train with ReFL, or with --strategy nft, which uses the values of the learned reward only. The first
run has many steps and no regularizer; shorter runs follow with one regularizer each. All runs log the
learned reward (tiny), the held-out reward (tiny-judge), the diversity and the oracle's truth. Early
stopping is replayed on the log of the first run: where would held-out reward and diversity have stopped it,
and how good was the truth there, compared with the best validation? Finished runs are not repeated. Writes
hacking.json, curves.png, pictures.png (base and last weights of each run) and RUN/samples/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from refl.compare import generate_images, load_model, score_images
from refl.config import RewardConfig, TrainConfig, ValidationConfig
from refl.demo.figures import draw_curve, draw_grid
from refl.demo.recipe import (
    HELD_OUT_REWARD,
    PIPELINE,
    REWARD,
    TRUTH,
    DemoSize,
    demo_config,
    make_trainer,
    nft_config,
    unseen_prompts,
    write_images,
)
from refl.demo.study import SETTINGS, run_environment, score_model, validation_curve
from refl.demo.truth import read_truths
from refl.rewards import load_rewards
from refl.training_state import ReflState
from refl.validation import Validation, diversity, record_validation
from reward_core.files.json_file import write_json

STOP = ValidationConfig(stop_reward=HELD_OUT_REWARD, stop_patience=2, stop_diversity=0.7)
ARMS = ("none", "pretraining", "distance", "ensemble", "lora")
SCALES = (0.25, 0.5, 0.75, 1.0)
DRAWN = 10  # prompts in pictures.png
LEARNING_RATE = 3e-4  # 1.5 times the demo's, so that fewer steps suffice
# Space and weight of the distance to the starting model; v weighs all noise levels of nft evenly.
DISTANCES = {"refl": ("x0", 5.0), "nft": ("v", 1.0)}


def arm_config(arm: str, base: TrainConfig) -> TrainConfig:
    """Return the demo's settings with a linear phi and at most one regularizer."""
    held_out = (RewardConfig(HELD_OUT_REWARD, 0.0), RewardConfig(TRUTH, 0.0, input="images"))
    config = replace(
        base,
        rewards=(RewardConfig(REWARD, 1.0, "linear"), *held_out),
        loss=replace(base.loss, reward_scale=1.0, pretraining_data=""),
        validation=replace(base.validation, stop_reward="", stop_diversity=0.0, keep_best=False),
    )
    if arm == "pretraining":
        return replace(config, loss=replace(base.loss, reward_scale=base.loss.reward_scale))
    if arm == "distance":
        space, weight = DISTANCES[base.strategy.name]
        return replace(config, loss=replace(config.loss, distance=space, distance_weight=weight))
    if arm == "ensemble":
        both = (RewardConfig(REWARD, 0.5, "linear"), RewardConfig(HELD_OUT_REWARD, 0.5, "linear"))
        return replace(config, rewards=(*both, RewardConfig(TRUTH, 0.0, input="images")))
    if arm == "lora":
        return replace(
            config,
            model=replace(config.model, lora_rank=16),
            optimizer=replace(config.optimizer, lr=4 * config.optimizer.lr),
        )
    return config


def base_config(strategy: str, out: Path, data: Path, size: DemoSize, seed: int) -> TrainConfig:
    """Return the demo's settings of ReFL or nft with the learning rate of this tool."""
    config = (nft_config if strategy == "nft" else demo_config)(out, data, size, seed)
    return replace(config, optimizer=replace(config.optimizer, lr=LEARNING_RATE))


def replay_early_stop(curve: Sequence[dict[str, float]], settings: ValidationConfig) -> dict[str, Any]:
    """Replay early stopping on the log of a run."""
    state, no_pixels = ReflState(), torch.empty(0)
    for point in curve:
        state.step = int(point["step"])
        scores = {name: [point[name]] for name in (REWARD, HELD_OUT_REWARD)}  # without the truth
        record_validation(Validation(scores, point["diversity"], no_pixels), settings, state)
        if state.stopped:
            break
    truths = {point["step"]: point[TRUTH] for point in curve}
    return {
        "stopped": state.stopped,
        "stopped_step": state.step,
        "kept_step": state.best_step,
        "kept_truth": truths[state.best_step],
        "best_truth": max(truths.values()),
        "last_truth": curve[-1][TRUTH],
        "kept_share_of_best": truths[state.best_step] / max(truths.values()),
    }


def at_equal_reward(curves: dict[str, list[dict[str, float]]], reward: float) -> dict[str, dict[str, float]]:
    """Return truth and diversity of each run at an equal learned reward.

    Values between validations are interpolated.
    """
    reached = {}
    for name, curve in curves.items():
        for before, after in pairwise(curve):
            if before[REWARD] <= reward <= after[REWARD]:
                share = (reward - before[REWARD]) / ((after[REWARD] - before[REWARD]) or 1)
                keys = ("step", TRUTH, HELD_OUT_REWARD, "diversity")
                reached[name] = {key: before[key] + share * (after[key] - before[key]) for key in keys}
                break
    return reached


def scaled_lora(folder: Path, prompts: Sequence[str], seeds: int) -> list[dict[str, float]]:
    """Return rewards, truth and diversity of a LoRA at several scales."""
    settings = replace(SETTINGS, seeds=seeds)
    samples = [(prompt, n * seeds + k) for n, prompt in enumerate(prompts) for k in range(seeds)]
    repeated = [prompt for prompt, _ in samples]
    rewards = load_rewards([RewardConfig(REWARD), RewardConfig(HELD_OUT_REWARD)], torch.device("cpu"))
    family = load_model(folder, str(PIPELINE), torch.device("cpu"))
    (adapter,) = family.pipeline.get_list_adapters()["unet"]
    rows = []
    for scale in SCALES:
        family.pipeline.set_adapters([adapter], [scale])
        images = torch.cat(list(generate_images(family, samples, settings)))
        scores = score_images(images, prompts, rewards, settings, torch.device("cpu"))
        row = {name: float(values.mean()) for name, values in scores.items()}
        row |= {"scale": scale, TRUTH: float(read_truths(images, repeated).utility.mean())}
        rows.append(row | {"diversity": diversity(images.float() / 255, seeds)})
    return rows


def table(results: dict[str, Any]) -> str:
    lines = [
        f"At a learned reward of {results['equal_reward']:.2f}:",
        "",
        "| run | step | truth | held-out reward | diversity | truth at the end | learned reward at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, curve in results["curves"].items():
        last, equal = curve[-1], results["at_equal_reward"].get(name)
        cells = (
            [f"{equal['step']:.0f}", *(f"{equal[key]:.3f}" for key in (TRUTH, HELD_OUT_REWARD, "diversity"))]
            if equal
            else ["-"] * 4
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {last[TRUTH]:.3f} | {last[REWARD]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--steps", type=int, default=700, help="steps of the run without a regularizer (default: %(default)s)"
    )
    parser.add_argument(
        "--others", type=int, default=140, help="steps of each run with a regularizer (default: %(default)s)"
    )
    parser.add_argument(
        "--every", type=int, default=35, help="steps between validations (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=32, help="validation prompts, two images each (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", choices=DISTANCES, default="refl")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    started = time.perf_counter()
    size = replace(DemoSize(), validate_every=args.every, validation_prompts=args.prompts)
    args.out.mkdir(parents=True, exist_ok=True)
    write_images(args.out / "pictures.tar", size.images, args.seed)
    curves, config = {}, None
    for arm in args.arms:
        steps = args.steps if arm == "none" else args.others
        print(f"{arm}: {steps} steps", file=sys.stderr)
        size = replace(size, steps=steps)
        data = args.out / "pictures.tar"
        config = arm_config(arm, base_config(args.strategy, args.out / arm, data, size, args.seed))
        trainer = make_trainer(config, size, args.seed)
        trainer.train()
        curves[arm] = validation_curve(trainer.metrics.read())
    # The highest reward that all runs reach, to compare them at it. The LoRA run does not count: it adapts
    # the attention layers only, of which this UNet has few, and learns much more slowly.
    full_curves = {name: curve for name, curve in curves.items() if name != "lora"} or curves
    equal = min(max(point[REWARD] for point in curve) for curve in full_curves.values())
    results: dict[str, Any] = {"curves": curves, "equal_reward": equal}
    results["at_equal_reward"] = at_equal_reward(curves, equal)
    if "none" in curves:
        results["early_stop"] = replay_early_stop(curves["none"], STOP)
    if "lora" in curves:
        results["lora_scales"] = scaled_lora(args.out / "lora" / "model", unseen_prompts(48, args.seed), 2)
    results["settings_of"] = args.arms[-1]
    results |= run_environment(started, config)
    del results["seconds"]  # covers this call only, which may have skipped finished runs
    write_json(args.out / "hacking.json", results)
    draw_curve(args.out / "curves.png", {name: curves[name] for name in list(curves)[:1]})
    prompts = unseen_prompts(DRAWN, args.seed)
    models = {"base": PIPELINE} | {arm: args.out / arm / "model" for arm in args.arms if arm != "lora"}
    draw_grid(args.out / "pictures.png", prompts, {n: score_model(m, prompts) for n, m in models.items()})
    print(table(results))
    details = {name: results[name] for name in ("early_stop", "lora_scales") if name in results}
    print(json.dumps(details, indent=1))


if __name__ == "__main__":
    main()
