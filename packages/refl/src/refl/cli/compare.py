"""``refl compare``: compare a model before and after fine-tuning on the same seeds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("compare", help="compare two models on the same prompts and seeds")
    parser.add_argument(
        "before", metavar="BEFORE", help="first model: hub id, pipeline folder, single file or LoRA folder"
    )
    parser.add_argument("after", metavar="AFTER", help="second model, in the same forms")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="base model of LoRA folders (default: the model that their card names)",
    )
    parser.add_argument("--prompts", required=True, metavar="FILE", help="file of prompts")
    parser.add_argument(
        "--reward", action="append", required=True, metavar="NAME", help="reward (repeatable)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N prompts")
    parser.add_argument("--seeds", type=int, default=4, help="images per prompt (default: %(default)s)")
    parser.add_argument("--height", type=int, default=0, help="pixels (default: the model's)")
    parser.add_argument("--width", type=int, default=0, help="pixels (default: the model's)")
    parser.add_argument("--steps", type=int, default=40, help="denoising steps (default: %(default)s)")
    parser.add_argument(
        "--sampler", default="", help="ddim, ddpm, euler or flow (default: the first that the model supports)"
    )
    parser.add_argument(
        "--guidance-scale", type=float, default=5.0, help="1 disables guidance (default: %(default)s)"
    )
    parser.add_argument("--negative-prompt", default="", help="negative prompt for guidance")
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch (default: %(default)s)")
    parser.add_argument("--device", help="device to compute on (default: cuda, else mps, else cpu)")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from reward_core.hub.file_specs import is_repo_id

    from ..checks.hub_checks import check_reward_downloads, pipeline_index
    from ..checks.input_checks import check_model, check_out, check_rewards
    from ..data.prompts import read_prompts
    from ..errors import ConfigError

    for name in ("seeds", "steps", "batch_size", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"Cannot use --{name.replace('_', '-')} {value}: it must be at least 1.")

    prompts = read_prompts(args.prompts)[: args.limit]
    check_rewards(args.reward)
    for model in filter(None, (args.before, args.after, args.base)):
        check_model(model)
    check_out(args.out)
    for model in filter(is_repo_id, filter(None, (args.before, args.after, args.base))):
        if not os.path.exists(model):
            pipeline_index(model)
    check_reward_downloads(args.reward)

    logger.info("importing torch and diffusers")
    from reward_core.runs.progress import bar as progress_bar
    from reward_core.scoring.device import default_device, usable_device

    from ..compare import ImageSettings, compare, load_model
    from ..config import RewardConfig
    from ..rewards import load_rewards

    device = usable_device(args.device or default_device())
    configs = [RewardConfig(name) for name in dict.fromkeys(args.reward)]
    rewards = load_rewards(configs, device, needs_gradient=False)
    names = [field.name for field in dataclasses.fields(ImageSettings)]
    settings = ImageSettings(**{name: getattr(args, name) for name in names})
    families = []
    for model in (args.before, args.after):
        logger.info("loading %s", model)
        families.append(load_model(model, args.base, device))
    before, after = families
    with progress_bar() as bar:
        task = bar.add_task("images", total=2 * len(prompts) * settings.seeds)
        result = compare(
            before, after, prompts, rewards, settings, args.out, lambda count: bar.advance(task, count)
        )
    if args.json:
        print(
            json.dumps({"before": args.before, "after": args.after, **result}, indent=1, ensure_ascii=False)
        )
    else:
        print_comparison(result)
    return 0


def print_comparison(result: dict) -> None:
    from reward_core.printing.terminal import PlainTable, print_table

    title = f"{result['prompts']} prompts x {result['settings']['seeds']} seeds"
    table = PlainTable("reward", "before", "after", "after wins", "95% interval", title=title)
    for row in result["rewards"]:
        interval = f"{row['win_rate_low']:.1%} to {row['win_rate_high']:.1%}"
        means = (f"{row[side]:.3f}" for side in ("before", "after"))
        table.add_row(row["name"], *means, f"{row['win_rate']:.1%}", interval)
    if result["diversity"]["before"] is not None:
        table.add_row(
            "(diversity)", *(f"{result['diversity'][side]:.3f}" for side in ("before", "after")), "", ""
        )
    print_table(table)
