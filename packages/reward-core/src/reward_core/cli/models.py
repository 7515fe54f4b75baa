"""``reward-core models``: list the models that can be loaded by name."""

from __future__ import annotations

import argparse


def add_to(commands: argparse._SubParsersAction) -> None:
    models = commands.add_parser("models", help="list the models that can be loaded by name")
    models.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    from ..models.registry import BUNDLED_MODELS, REWARD_MODELS, SCORES
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable("name", "kind")
    table.add_column("description", wrap=True)
    for name, spec in REWARD_MODELS.items():
        table.add_row(name, "reward", spec.description)
    for name, description in BUNDLED_MODELS.items():
        table.add_row(name, "reward", description)
    for name, spec in SCORES.items():
        table.add_row(name, "baseline", f"{spec.description} (in Python: load_score)")
    print_table(table)
    return 0
