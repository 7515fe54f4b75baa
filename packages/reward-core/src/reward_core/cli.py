"""``reward-core``: score, rank and convert from the command line.

Exit code 0: all scored. 1: some pictures failed (named on stderr; the others are scored). 2: wrong
usage, or a model that cannot be had.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RewardCoreError
from .registry import BUNDLED_MODELS, REWARD_MODELS, SCORES
from .tables import print_evaluation, print_ranking, print_table

if TYPE_CHECKING:
    from .reward_model import RewardModel
    from .scorer import ScoredRow

DEFAULT_MODEL = "ImageReward-v1.0"
PRECISIONS = ("exact", "fast", "auto")  # as in precision.py, which would load torch


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold bytes that are no UTF-8
            stream.reconfigure(errors="backslashreplace")
    return run_command(build_parser().parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """``args.run(args)`` with errors and warnings as lines on stderr."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return args.run(args)
    except (RewardCoreError, OSError) as error:
        print(f"reward-core: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reward-core: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="reward-core", description="Human-preference rewards for generated pictures."
    )
    parser.add_argument("--version", action="version", version=f"reward-core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    computing = argparse.ArgumentParser(add_help=False)
    computing.add_argument("--device", help="default: cuda, else mps, else cpu")
    computing.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="exact",
        help="exact: the original's numbers; fast: 16 bits where the device gains by it; auto: fast on a GPU",
    )
    computing.add_argument("--batch-size", type=_positive, metavar="N", help="pairs computed at once")
    scoring = argparse.ArgumentParser(add_help=False, parents=[computing])
    scoring.add_argument(
        "--model", default=DEFAULT_MODEL, help="name, folder, file or hub repository (default: %(default)s)"
    )

    rank = commands.add_parser(
        "rank", parents=[scoring], help="order pictures by how well they suit a prompt"
    )
    rank.add_argument("prompt")
    rank.add_argument("images", nargs="+", metavar="IMAGE")
    rank.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    rank.set_defaults(run=run_rank)

    score = commands.add_parser(
        "score", parents=[scoring], help="score many (prompt, picture) pairs into a file"
    )
    score.add_argument(
        "--prompts", type=Path, required=True, help="JSON: the original's form, or {picture: prompt}"
    )
    score.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    score.add_argument("--out", type=Path, required=True, metavar="FILE", help=".csv, .json or .parquet")
    score.set_defaults(run=run_score)

    evaluate = commands.add_parser(
        "evaluate", parents=[computing], help="how often a model prefers what people, or an oracle, prefer"
    )
    evaluate.add_argument("model", metavar="MODEL", help="name, folder, file or hub repository")
    evaluate.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="rankings, JSON in the original's form"
    )
    evaluate.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures (default: FILE's)"
    )
    evaluate.add_argument(
        "--blank-prompts",
        action="store_true",
        help="give the model empty prompts, to see what it gets right unasked",
    )
    evaluate.add_argument("--json", action="store_true", help="one JSON document on stdout instead of tables")
    evaluate.set_defaults(run=run_evaluate)

    models = commands.add_parser("models", help="list what can be loaded by name")
    models.set_defaults(run=run_models)

    convert = commands.add_parser("convert", help="turn the original's .pt into a folder that loads offline")
    add_convert_arguments(convert)

    example = commands.add_parser(
        "example", parents=[scoring], help="score the original's four pictures beside the published scores"
    )
    example.add_argument(
        "--images", metavar="DIR_OR_URL", help="where the pictures are (default: the original's)"
    )
    example.set_defaults(run=run_example)
    return parser


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "state_dict", type=Path, metavar="STATE_DICT", help="ImageReward.pt, model_large.pth, ..."
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument(
        "--config",
        type=Path,
        help="config.json with the sizes (default: the one beside STATE_DICT, or ImageReward-v1.0's)",
    )
    parser.add_argument(
        "--vocab", type=Path, help="vocab.txt (default: the one beside STATE_DICT, or BERT's from the hub)"
    )
    parser.set_defaults(run=run_convert)


def run_rank(args: argparse.Namespace) -> int:
    model = _load(args)
    rows = list(
        _with_progress(model.score_rows([args.prompt] * len(args.images), args.images, **_batch(args)))
    )
    # Equal scores keep the order in which the pictures were given.
    scored = sorted((row for row in rows if row.error is None), key=lambda row: -row.score)
    failed = [row for row in rows if row.error is not None]
    results = [
        {"place": place, "image": row.image, "score": row.score, "percentile": model.percentile(row.score)}
        for place, row in enumerate(scored, start=1)
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
    return _report_failures(failed)


def run_score(args: argparse.Namespace) -> int:
    from .prompt_file import read_pairs
    from .score_file import check_writable, write_rows

    check_writable(args.out)
    pairs = read_pairs(args.prompts, args.images)
    model = _load(args)
    prompts, images = [prompt for prompt, _ in pairs], [image for _, image in pairs]
    rows = list(_with_progress(model.score_rows(prompts, images, **_batch(args)), total=len(pairs)))
    write_rows(rows, args.out)
    failed = [row for row in rows if row.error is not None]
    print(f"{len(rows) - len(failed)} scores in {args.out}", file=sys.stderr)
    return _report_failures(failed)


def run_evaluate(args: argparse.Namespace) -> int:
    from .errors import EmptyPromptWarning, InputError
    from .evaluation import evaluate
    from .load import load, load_score
    from .ranking_file import read_rankings

    data = read_rankings(args.data, args.images)
    images = [image for item in data for image in item.images]
    prompts = ["" if args.blank_prompts else item.prompt for item in data for _ in item.images]
    loader = load_score if args.model in SCORES else load
    model = loader(args.model, device=args.device, precision=args.precision)
    with warnings.catch_warnings():
        if args.blank_prompts:
            warnings.simplefilter("ignore", EmptyPromptWarning)
        rows = list(_with_progress(model.score_rows(prompts, images, **_batch(args)), total=len(images)))
    failed = [row for row in rows if row.error is not None]
    try:
        result = evaluate(data, rows)
    except ValueError as error:
        _report_failures(failed)
        raise InputError(f"{args.data}: {error}") from error
    if args.json:
        document = {"model": args.model, "data": str(args.data), "blank_prompts": args.blank_prompts}
        failures = [{"image": row.image, "error": row.error} for row in failed]
        print(json.dumps({**document, **result.to_dict(), "failed": failures}, ensure_ascii=False, indent=1))
    else:
        print_evaluation(args.model, result)
    return _report_failures(failed)


def run_models(args: argparse.Namespace) -> int:
    from rich.table import Table

    table = Table("name", "kind", "what it is")
    for name, spec in REWARD_MODELS.items():
        table.add_row(name, "reward", spec.description)
    for name, description in BUNDLED_MODELS.items():
        table.add_row(name, "reward", description)
    for name, spec in SCORES.items():
        table.add_row(name, "baseline", f"{spec.description} (in Python: load_score)")
    print_table(table)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    from .convert import convert_checkpoint
    from .reward_model import RewardModel

    model = convert_checkpoint(args.state_dict, args.out, args.config, args.vocab)
    kind, parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
    door = "load" if isinstance(model, RewardModel) else "load_score"
    print(f"{args.out}: {kind}, {parameters:,} parameters; load it with RM.{door}({str(args.out)!r})")
    return 0


def run_example(args: argparse.Namespace) -> int:
    from rich.table import Table

    from .example import ADDRESS, PROMPT, PUBLISHED, example_images

    images = example_images(args.images or ADDRESS)
    rewards = _load(args).score(PROMPT, images, **_batch(args))
    table = Table("picture", f"score ({args.model})", "published (ImageReward-v1.0)", title=PROMPT)
    for image, reward, published in zip(images, rewards, PUBLISHED):
        table.add_row(image.name, f"{reward:.2f}", f"{published:.2f}")
    print_table(table)
    return 0


def _load(args: argparse.Namespace) -> RewardModel:
    from .load import load

    return load(args.model, device=args.device, precision=args.precision)


def _batch(args: argparse.Namespace) -> dict[str, int | None]:
    return {"batch_size": args.batch_size}


def _with_progress(rows: Iterator[ScoredRow], total: int | None = None) -> Iterable[ScoredRow]:
    """The rows, with a progress bar on stderr while that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        rows, "scoring", total=total, console=console, disable=not console.is_terminal, transient=True
    )


def _report_failures(failed: list[ScoredRow]) -> int:
    for row in failed:
        print(f"reward-core: {row.image}: {row.error}", file=sys.stderr)
    return 1 if failed else 0


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"reward-core: warning: {message}", file=sys.stderr)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
