"""``reward-benchmark``: tables of scorers and generators from the command line.

Exit code 0: done. 1: done, but some pictures could not be scored. 2: wrong usage, or data or a model that
cannot be had. 130: interrupted; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from reward_core.errors import InputError, RewardCoreError


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return args.run(args)
    except (RewardCoreError, OSError) as error:
        print(f"reward-benchmark: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reward-benchmark: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="reward-benchmark", description="The paper's tables, and every scorer beside the others."
    )
    parser.add_argument("--version", action="version", version=f"reward-benchmark {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_metrics(commands)
    return parser


def _add_metrics(commands) -> None:
    metrics = commands.add_parser("metrics", help="metrics of scores that lie in files, as one JSON object")
    metrics.add_argument(
        "--rankings",
        type=Path,
        metavar="FILE",
        help="rankings: [{id, prompt, generations, ranking}]",
    )
    metrics.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="[{id, rewards}]; without --rankings, the original's benchmark/results folder or files of it",
    )
    metrics.set_defaults(run=run_metrics)


def run_metrics(args: argparse.Namespace) -> int:
    if args.rankings is None:
        print(json.dumps(_generator_metrics(args.scores), indent=1))
        return 0
    from reward_core.ranking_file import read_rankings

    from .metrics import preference_table
    from .score_files import read_scores, scores_for

    if len(args.scores) != 1:
        raise InputError(f"--rankings takes one file of --scores, got {len(args.scores)}")
    rankings = read_rankings(args.rankings)
    scores = scores_for(rankings, read_scores(args.scores[0]), str(args.scores[0]))
    try:
        table = preference_table([item.places for item in rankings], scores)
    except ValueError as error:
        raise InputError(f"{args.scores[0]}: {error}") from error
    print(json.dumps(table.to_dict(), indent=1))
    return 0


def _generator_metrics(paths: list[Path]) -> dict:
    from .metrics import generator_table
    from .score_files import human_ranks, read_generator_files, result_files

    files = [file for path in paths for file in result_files(path)]
    found = read_generator_files(files)
    try:
        return {name: generator_table(scores, human_ranks()).to_dict() for name, scores in found.items()}
    except ValueError as error:
        raise InputError(str(error)) from error


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"reward-benchmark: warning: {message}", file=sys.stderr)
