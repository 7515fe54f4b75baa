"""``reward-core models``: list the scorers that can be loaded by name."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.model_spec import ModelSpec


def add_to(commands: argparse._SubParsersAction) -> None:
    models = commands.add_parser("models", help="list the scorers that can be loaded by name")
    models.add_argument("--json", action="store_true", help="print all facts as JSON instead of a table")
    models.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    from ..models.registry import all_specs

    specs = all_specs()
    if args.json:
        facts = {name: facts_of(spec) for name, spec in specs.items()}
        print(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        print_specs(specs)
    return 0


def facts_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the facts of a scorer and the files to download."""
    downloads = [dataclasses.asdict(file) for file in spec.downloads()]
    return {**dataclasses.asdict(spec.facts), "downloads": downloads}


def print_specs(specs: Mapping[str, ModelSpec]) -> None:
    """Print the most important facts, as a table or, on a narrow terminal, as a list."""
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable("name")
    for header in ("size", "hardware", "range", "better", "license", "training data", "differentiable"):
        table.add_column(header, wrap=header in ("hardware", "range", "training data"))
    for name, spec in specs.items():
        facts = spec.facts
        table.add_row(
            name,
            f"{facts.gigabytes:.1f} GB" if facts.gigabytes else "bundled",
            facts.hardware,
            facts.score_range,
            "higher" if facts.higher_is_better else "lower",
            facts.weights_license.name,
            facts.training_data,
            "yes" if facts.differentiable else "no",
        )
    print_table(table)
