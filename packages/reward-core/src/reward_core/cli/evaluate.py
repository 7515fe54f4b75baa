"""``reward-core evaluate``: measure how often a model agrees with rankings of people or an oracle."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import TYPE_CHECKING, Any

from .common import (
    batch,
    computing_options,
    data_options,
    files_option,
    judge_options,
    load_models,
    report_failures,
    with_progress,
)
from .tables import print_evaluations

if TYPE_CHECKING:
    from ..rankings.evaluation import Evaluation


def add_to(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=[files_option(), computing_options(), judge_options(), data_options()],
        help="measure how often models agree with rankings",
    )
    evaluate.add_argument(
        "models", nargs="+", metavar="MODEL", help="name, folder, file or hub repository; one or more"
    )
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="rankings or pairs: .json, .jsonl, .csv, .parquet, a folder, or a dataset on the hub",
    )
    evaluate.add_argument("--split", metavar="NAME", help="split of a folder or dataset that has several")
    evaluate.add_argument(
        "--blank-prompts",
        action="store_true",
        help="replace every prompt with an empty one, to measure what the image alone explains",
    )
    evaluate.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of tables"
    )
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    from ..errors import EmptyPromptWarning, InputError
    from ..rankings import read_rankings
    from ..rankings.evaluation import evaluate

    data = read_rankings(args.data, args.images, dict(args.columns), args.split)
    images = [image for item in data for image in item.images]
    prompts = ["" if args.blank_prompts else item.prompt for item in data for _ in item.images]
    group = load_models(args)
    if args.blank_prompts:
        warnings.simplefilter("ignore", EmptyPromptWarning)
    rows = list(with_progress(group.score_rows(prompts, images, **batch(args)), total=len(images)))
    failed = [row for row in rows if row.error is not None]
    try:
        results = {name: evaluate(data, [row.of(name) for row in rows]) for name in group.names}
    except ValueError as error:
        report_failures(failed)
        raise InputError(f"{error} The rankings are in '{args.data}'.") from error
    if args.json:
        document = {"data": args.data, "blank_prompts": args.blank_prompts}
        failures = [{"image": row.image, "error": row.error} for row in failed]
        print(
            json.dumps(
                {**_found(args, results), **document, "failed": failures}, ensure_ascii=False, indent=1
            )
        )
    else:
        print_evaluations(results if len(results) > 1 else {args.models[0]: next(iter(results.values()))})
    return report_failures(failed)


def _found(args: argparse.Namespace, results: dict[str, Evaluation]) -> dict[str, Any]:
    """Return the part of the document about models; the results of a single model are not nested."""
    if len(results) == 1:
        return {"model": args.models[0], **next(iter(results.values())).to_dict()}
    return {"models": {name: result.to_dict() for name, result in results.items()}}
