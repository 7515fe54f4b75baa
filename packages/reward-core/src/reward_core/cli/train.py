"""``reward-core train``: train a reward model; the same command resumes an interrupted run."""

from __future__ import annotations

import argparse

from ..printing.escapes import printable, printable_lines

PRESET_NAMES = ("original",)  # as in training/config.py, which would load torch
FLAGS = {
    "init": "initial weights: blip-large, scratch, or a name, folder or file of BLIP or a reward model",
    "data": "folder with train.json (validation.json, test.json), or one file of rankings",
    "images": "folder of the images (default: the folder of the data)",
    "out": "folder for checkpoints, logs and the model",
    "head_init": "initial reward head: scaled, or original (loss starts at log 2)",
    "average": "mean of the loss: prompt (as in the paper) or pair (as in the original code)",
    "freeze": "share of the encoders' layers to freeze, from the first layer (default: 0.7)",
    "cache": "folder to cache outputs of frozen layers, for faster later epochs",
}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a reward model from rankings",
        description="Train a reward model from rankings. Run the same command again to resume a run.",
    )
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=text)
    parser.add_argument("--preset", choices=PRESET_NAMES, help="original: the authors' recipe")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings that override the preset")
    parser.add_argument(
        "--resume", metavar="CHECKPOINT", help="resume from this checkpoint instead of the newest"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="load and check everything, print the plan, and exit"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="set_options",
        help="setting such as lr=2e-5 (repeatable; see docs/training.md)",
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="the same without --set")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    from ..training.config import load_settings
    from ..training.trainer import Trainer

    given = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    settings = load_settings(args.config, args.preset, [*args.settings, *args.set_options], given)
    trainer = Trainer(settings)
    if args.dry_run:
        print(printable_lines(describe(trainer)))
        return 0
    folder = trainer.train(args.resume)
    if trainer.accelerator.is_main_process:
        print(printable(folder))
    return 0


def describe(trainer) -> str:
    """Return the resolved settings, the number of steps, and the memory needed, as text."""
    import yaml

    settings, plan, readers = trainer.settings, trainer.plan, trainer.readers
    parameters = list(trainer.model.parameters())
    every = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    data = ", ".join(
        f"{name} {len(reader.groups):,} groups, {sum(reader.pairs):,} pairs"
        for name, reader in readers.items()
    )
    return "\n".join(
        [
            yaml.safe_dump(settings.to_dict(), sort_keys=False),
            f"data: {data}",
            f"steps: {len(plan.steps):,}, validations after {sorted(plan.validation_steps)[:8]} ...",
            f"parameters: {trained:,} trained of {every:,}",
            f"memory: {4 * every / 2**20:,.0f} MB of weights, {12 * trained / 2**20:,.0f} MB of gradients "
            "and optimizer state; activations come on top",
        ]
    )
