"""``reward-core rank``: order images by how well they suit a prompt."""

from __future__ import annotations

import argparse
import json

from .common import batch, load_model, report_failures, scoring_options, with_progress
from .tables import print_ranking


def add_to(commands: argparse._SubParsersAction) -> None:
    rank = commands.add_parser(
        "rank", parents=[scoring_options()], help="order images by how well they suit a prompt"
    )
    rank.add_argument("prompt", metavar="PROMPT", help="text that the images should show")
    rank.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    rank.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    rank.set_defaults(run=run_rank)


def run_rank(args: argparse.Namespace) -> int:
    model = load_model(args)
    rows = list(with_progress(model.score_rows([args.prompt] * len(args.images), args.images, **batch(args))))
    # Equal scores keep the order in which the images were given.
    scored = sorted(
        ((row.image, row.score) for row in rows if row.score is not None), key=lambda pair: -pair[1]
    )
    failed = [row for row in rows if row.error is not None]
    results = [
        {"place": rank, "image": image, "score": score, "percentile": model.percentile(score)}
        for rank, (image, score) in enumerate(scored, start=1)
    ]
    if args.json:
        document = {
            "model": args.model,
            "prompt": args.prompt,
            "results": results,
            "failed": [{"image": row.image, "error": row.error} for row in failed],
        }
        print(json.dumps(document, ensure_ascii=False, indent=1))
    elif results:
        print_ranking(model, args.prompt, results)
    return report_failures(failed)
