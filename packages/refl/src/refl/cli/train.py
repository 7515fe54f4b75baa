"""``refl train``: fine-tune a model; started again in the same folder, go on."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from reward_core.printing.escapes import printable, printable_lines

from ..presets import PRESETS

if TYPE_CHECKING:
    from ..config import TrainConfig


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="fine-tune a diffusion model against rewards")
    parser.add_argument("--preset", metavar="NAME", help=", ".join(PRESETS))
    parser.add_argument("--config", metavar="FILE", help="YAML over the preset")
    parser.add_argument("--model", metavar="MODEL", help="hub id, pipeline folder or single file")
    parser.add_argument(
        "--prompts", metavar="FILE", help=".json, .jsonl, .csv, .tsv, or text with one prompt a line"
    )
    parser.add_argument(
        "--reward",
        action="append",
        metavar="NAME",
        help="trained for, in place of the settings' rewards; several add up (reward-core models)",
    )
    parser.add_argument(
        "--watch", action="append", metavar="NAME", help="held out: only watched, beside the others"
    )
    parser.add_argument("--out", metavar="FOLDER", help="everything the run writes (default: runs/refl)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="such as optimizer.lr=1e-5",
    )
    parser.add_argument("--dry-run", action="store_true", help="load, check, say what would be done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..input_checks import check_inputs

    config = settings(args)
    check_inputs(config)
    from ..trainer import Trainer  # slow to import

    trainer = Trainer(args=config)
    if args.dry_run:
        print(printable_lines(describe(trainer)))
        return 0
    print(printable(f"refl: the result is in {trainer.train()}"))
    return 0


def settings(args: argparse.Namespace) -> TrainConfig:
    """The command line as a TrainConfig."""
    from ..config_file import load_config

    given = []
    for key, value in (("model.id", args.model), ("prompts", args.prompts), ("run.out", args.out)):
        if value is not None:
            given.append(f"{key}={json.dumps(value)}")
    if args.reward:
        given.append(f"rewards={json.dumps([{'name': name} for name in args.reward])}")
    return load_config(args.config, args.preset, [*given, *args.settings], args.watch or [])


def describe(trainer) -> str:
    """Resolved settings, the plan of one rollout, and what it takes."""
    import random

    import yaml

    config, objective = trainer.config, trainer.objective
    plan = config.strategy.plan(config.rollout.steps, random.Random(f"{config.run.seed} 0"))
    free, with_gradient = plan.cost()
    trained = sum(p.numel() for p in trainer.trainable.parameters)
    everything = [
        p
        for m in trainer.family.pipeline.components.values()
        if hasattr(m, "parameters")
        for p in m.parameters()
    ]
    weights = sum(p.numel() * p.element_size() for p in everything)
    copies = 2 + 2 * (0.25 if config.optimizer.eight_bit else 1) + bool(config.optimizer.ema_decay)
    state = (copies - 1) * 4 * trained  # gradients, Adam's two, EMA; the weights are counted above
    samples = config.run.batch_size * config.run.accumulation * trainer.accelerator.num_processes
    return "\n".join(
        [
            yaml.safe_dump(config.to_dict(), sort_keys=False),
            f"pictures: {objective.height} x {objective.width} pixels, {samples} a step, "
            f"{len(trainer.prompts)} prompts, {len(trainer.validation_prompts)} for validation",
            f"one rollout: {plan}",
            f"denoiser: {free} passes without gradient, {with_gradient} with"
            + (" (guidance: each twice as wide)" if config.rollout.guidance_scale != 1 else ""),
            f"parameters: {trained:,} trained of {sum(p.numel() for p in everything):,}",
            f"memory: {weights / 2**20:,.0f} MB of weights, {state / 2**20:,.0f} MB of gradients and "
            "optimizer state; activations come on top",
        ]
    )
