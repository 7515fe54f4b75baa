"""``reward-core models``: list the models that can be loaded by name."""

from __future__ import annotations

import argparse


def add_to(commands: argparse._SubParsersAction) -> None:
    models = commands.add_parser("models", help="list the models that can be loaded by name")
    models.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    from ..models.registry import all_specs
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable("name")
    table.add_column("description", wrap=True)
    for name, spec in all_specs().items():
        table.add_row(name, spec.facts.summary)
    print_table(table)
    return 0
