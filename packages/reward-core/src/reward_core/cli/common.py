"""Options, model loading, progress bar and failure report that several commands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..files.score_file import GroupRow, ScoredRow
    from ..scoring.scorer_group import ScorerGroup
    from ..scoring.scoring_model import ScoringModel

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_MODEL = "ImageReward-v1.0"
PRECISIONS = ("exact", "fast", "int8", "auto")  # as in scoring/precision.py, which would load torch


def computing_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options for device, precision and batch size."""
    computing = argparse.ArgumentParser(add_help=False)
    computing.add_argument("--device", help="device to compute on (default: cuda, else mps, else cpu)")
    computing.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="exact",
        help="exact: the original's numbers; fast: 16 bits where that is faster; int8: 8 bits on a CPU; "
        "auto: fast on a GPU",
    )
    computing.add_argument("--batch-size", type=positive, metavar="N", help="pairs per batch")
    return computing


def judge_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options of VLM judges."""
    parser = argparse.ArgumentParser(add_help=False)
    judges = parser.add_argument_group("VLM judges")
    judges.add_argument("--server", metavar="URL", help="OpenAI-compatible server that serves the model")
    judges.add_argument(
        "--served-model", metavar="NAME", help="name of the model on the server (default: its id on the hub)"
    )
    judges.add_argument(
        "--template", metavar="FILE", help="question to ask: a .json or .yaml file, or a known name"
    )
    judges.add_argument(
        "--no-answer-cache", action="store_true", help="neither read nor store answers on the disk"
    )
    return parser


def files_option() -> argparse.ArgumentParser:
    """Return a parent parser with --files."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--files",
        metavar="FOLDER",
        help="folder of local copies of the files of a model given by name; nothing is downloaded",
    )
    return parser


def judge_choices(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of VLM judges as arguments of ``load`` and `JudgeOptions`."""
    names = ("server", "served_model", "template")
    return {name: getattr(args, name) for name in names} | {"answer_cache": not args.no_answer_cache}


def scoring_options(several: bool = True) -> argparse.ArgumentParser:
    """Return a parent parser with --model, --files, the computing options and those of VLM judges.

    Args:
        several: whether --model may be repeated; see `given_models`.
    """
    parents = [files_option(), computing_options(), judge_options()]
    scoring = argparse.ArgumentParser(add_help=False, parents=parents)
    what = "name, folder, file or hub repository"
    if several:
        scoring.add_argument(
            "--model",
            action="append",
            dest="models",
            metavar="MODEL",
            help=f"{what}; repeatable, each image is decoded once (default: {DEFAULT_MODEL})",
        )
    else:
        scoring.add_argument("--model", default=DEFAULT_MODEL, help=f"{what} (default: %(default)s)")
    return scoring


def data_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options for reading rankings."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images (default: the folder of the data)"
    )
    data.add_argument(
        "--columns",
        nargs="+",
        type=_column,
        default=[],
        metavar="ROLE=COLUMN",
        help="columns with unusual names, such as better=chosen worse=rejected (see docs/data.md)",
    )
    return data


def _column(text: str) -> tuple[str, str]:
    role, equals, column = text.partition("=")
    if not (role and equals and column):
        raise argparse.ArgumentTypeError(f"must be ROLE=COLUMN, got {text!r}")
    return role, column


def given_models(args: argparse.Namespace) -> list[str]:
    """Return the models of a repeatable --model, or the default."""
    return args.models or [DEFAULT_MODEL]


def load_models(args: argparse.Namespace) -> ScorerGroup:
    from ..models.load import load

    options = judge_choices(args)
    return load(given_models(args), device=args.device, files=args.files, precision=args.precision, **options)


def load_model(args: argparse.Namespace) -> ScoringModel:
    from ..models.load import load

    options = judge_choices(args)
    return load(args.model, device=args.device, files=args.files, precision=args.precision, **options)


def batch(args: argparse.Namespace) -> dict[str, int | None]:
    return {"batch_size": args.batch_size}


def with_progress(rows: Iterator[T], total: int | None = None) -> Iterable[T]:
    """Iterate over rows with a progress bar on stderr if that is a terminal."""
    from rich.progress import track

    from ..printing.terminal import plain_console

    console = plain_console(stderr=True)
    return track(
        rows, "scoring", total=total, console=console, disable=not console.is_terminal, transient=True
    )


def report_failures(failed: Sequence[ScoredRow | GroupRow]) -> int:
    for row in failed:
        logger.error("%s: %s", row.image, row.error)
    return 1 if failed else 0


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
