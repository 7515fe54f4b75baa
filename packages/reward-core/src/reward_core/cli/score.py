"""``reward-core score``: many (prompt, picture) pairs into a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import batch, load_model, report_failures, scoring_options, with_progress


def add_to(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser(
        "score", parents=[scoring_options()], help="score many (prompt, picture) pairs into a file"
    )
    score.add_argument(
        "--prompts", type=Path, required=True, help="JSON: the original's form, or {picture: prompt}"
    )
    score.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    score.add_argument("--out", type=Path, required=True, metavar="FILE", help=".csv, .json or .parquet")
    score.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    from ..prompt_file import read_pairs
    from ..score_file import check_writable, write_rows

    check_writable(args.out)
    pairs = read_pairs(args.prompts, args.images)
    model = load_model(args)
    prompts, images = [prompt for prompt, _ in pairs], [image for _, image in pairs]
    rows = list(with_progress(model.score_rows(prompts, images, **batch(args)), total=len(pairs)))
    write_rows(rows, args.out)
    failed = [row for row in rows if row.error is not None]
    print(f"{len(rows) - len(failed)} scores in {args.out}", file=sys.stderr)
    return report_failures(failed)
