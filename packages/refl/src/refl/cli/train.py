"""``refl train``: fine-tune a model; the same command resumes an interrupted run."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING

from reward_core.printing.escapes import printable, printable_lines

from ..config.presets import PRESETS
from ..config.rollout_plans import plan_rollout

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..denoising.rollout_plan import RolloutPlan
    from ..dry_run import DryRun

logger = logging.getLogger(__name__)


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="fine-tune a diffusion model against rewards")
    parser.add_argument("--preset", metavar="NAME", help=f"starting point: {', '.join(PRESETS)}")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings that override the preset")
    parser.add_argument("--model", metavar="MODEL", help="hub id, pipeline folder or single file")
    parser.add_argument(
        "--prompts", metavar="FILE", help=".json, .jsonl, .csv or .tsv file, or text with one prompt per line"
    )
    parser.add_argument(
        "--reward",
        action="append",
        metavar="NAME",
        help="reward to train on, instead of those in the settings (repeatable; see reward-core models)",
    )
    parser.add_argument(
        "--watch",
        action="append",
        metavar="NAME",
        help="held-out reward: logged, never trained on (repeatable)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run (default: runs/refl)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="set_options",
        help="setting such as optimizer.lr=1e-5 (repeatable)",
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="the same without --set")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything without the weights of the model, print the plan, and exit",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..checks.input_checks import check_inputs

    config = settings(args)
    check_inputs(config, weights=not args.dry_run)
    logger.info("importing torch and diffusers")
    if args.dry_run:
        from ..dry_run import DryRun

        print(printable_lines(describe(DryRun(config))))
        return 0
    from ..trainer import Trainer

    print(printable(f"refl: the result is in {Trainer(args=config).train()}"))
    return 0


def settings(args: argparse.Namespace) -> TrainConfig:
    """Return the settings of the command line."""
    from ..config.config_file import load_config

    values = []
    for key, value in (("model.id", args.model), ("prompts", args.prompts), ("run.out", args.out)):
        if value is not None:
            values.append(f"{key}={json.dumps(value)}")
    if args.reward:
        values.append(f"rewards={json.dumps([{'name': name} for name in args.reward])}")
    return load_config(
        args.config, args.preset, [*values, *args.settings, *args.set_options], args.watch or []
    )


def describe(checked: DryRun) -> str:
    """Return the resolved settings, the plan of one rollout, and the memory needed, as text."""
    import random

    import yaml

    from ..memory.estimate import estimate_memory

    config, objective = checked.config, checked.objective
    plan = plan_rollout(config.strategy, config.rollout.steps, random.Random(f"{config.run.seed} 0"))
    trained = sum(p.numel() for p in checked.trainable.parameters)
    everything = [
        p
        for m in checked.family.pipeline.components.values()
        if hasattr(m, "parameters")
        for p in m.parameters()
    ]
    guided = config.rollout.guidance_scale != 1 and not checked.family.scale_is_input
    samples = config.run.batch_size * config.run.accumulation * checked.accelerator.num_processes
    return "\n".join(
        [
            yaml.safe_dump(config.to_dict(), sort_keys=False),
            f"images: {objective.height} x {objective.width} pixels, {samples} a step, "
            f"{len(checked.prompts)} prompts, {len(checked.validation_prompts)} for validation",
            f"one rollout: {plan}",
            _passes(config, plan) + (f" (guidance: {_guided(config)} twice as wide)" if guided else ""),
            f"parameters: {trained:,} trained of {sum(p.numel() for p in everything):,}",
            str(estimate_memory(objective, plan)),
            *(f"not on this machine and not in the estimate: {reward}" for reward in checked.missing_rewards),
        ]
    )


def _guided(config: TrainConfig) -> str:
    strategy = config.strategy
    return "each" if strategy.name != "srpo" or strategy.guided_rollout else "those with gradient"


def _passes(config: TrainConfig, plan: RolloutPlan) -> str:
    """Return the denoiser's passes of an optimizer step as text."""
    free, with_gradient = plan.cost()
    strategy = config.strategy
    if strategy.name == "srpo":
        first, last = strategy.bounds(config.rollout.steps)
        branches = "denoise and inversion" if strategy.branches == 2 else "denoise"
        return (
            f"srpo: passes per image: {free} without gradient to generate it, {strategy.branches} with "
            f"({branches}), between the noise levels of steps {first} and {last}"
        )
    if strategy.needs_reward_gradient:
        return f"denoiser: {free} passes without gradient, {with_gradient} with"
    is_nft = strategy.name == "nft"
    count = strategy.levels if is_nft else strategy.random_steps(config.rollout.steps)
    fixed = is_nft + bool(config.loss.distance_weight)  # the old weights, and the base model
    shared = f" for {strategy.updates} optimizer steps" if strategy.updates > 1 else ""
    total = free + strategy.updates * count * (fixed + 1)
    without = f"({fixed} without gradient + 1 with)" if fixed else "1 with gradient"
    levels = f"{count} {'noise levels' if is_nft else 'random steps'} x {without}"
    times = f"{strategy.updates} x " if strategy.updates > 1 else ""
    return (
        f"{strategy.name}: {strategy.group} images per prompt; passes per image: {free} to generate it"
        f"{shared}, {times}{levels} = {total}"
    )
