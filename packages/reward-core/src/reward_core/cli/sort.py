"""``reward-core sort``: pictures into folders by their scores."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import ImageError, InputError
from ..metadata import SCORE_KEY, check_key, read_score
from ..sorting import Placement, carry_out, conflicts, pictures_to_sort, plan, read_scores
from ..tables import print_table

SHOWN = 40  # rows of the table


def add_to(commands: argparse._SubParsersAction) -> None:
    sort = commands.add_parser(
        "sort",
        help="put pictures into folders by their scores",
        description="Puts pictures into folders by the scores that `reward-core tag` wrote into them. Shows "
        "what it would do, and does it with --move or --copy; never overwrites. What an interrupted run has "
        "moved counts when it is run again. Captions (picture.txt) go with their pictures.",
    )
    sort.add_argument("folder", type=Path, metavar="DIR", help="folder of the pictures (not its subfolders)")
    sort.add_argument(
        "--into", required=True, metavar="BEST,...,REST", help="folders, for the best to the worst, in DIR"
    )
    cuts = sort.add_mutually_exclusive_group(required=True)
    cuts.add_argument(
        "--top",
        metavar="N|N%,...",
        help="how many, or which share of all, each folder but the last takes: 20, 10%%, or 10%%,30%%",
    )
    cuts.add_argument(
        "--threshold",
        metavar="SCORE,...",
        help="score that each folder but the last asks for",
    )
    sort.add_argument("--key", default=SCORE_KEY, help='name of the score (default: "%(default)s")')
    sort.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="a file of `reward-core score` to take the scores from",
    )
    do = sort.add_mutually_exclusive_group()
    do.add_argument("--move", "--yes", action="store_true", dest="move", help="do it: move the pictures")
    do.add_argument("--copy", action="store_true", help="do it: copy the pictures")
    sort.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    sort.set_defaults(run=run_sort)


def run_sort(args: argparse.Namespace) -> int:
    if not args.folder.is_dir():
        raise InputError(f"{args.folder}: no such folder")
    check_key(args.key)
    names = [name.strip() for name in args.into.split(",")]
    folders = [args.folder / name for name in names]
    if not all(names) or any(folder.resolve() == args.folder.resolve() for folder in folders):
        raise InputError(f"--into: names of folders other than DIR itself were expected, got {args.into!r}")
    tops = None if args.top is None else [top.strip() for top in args.top.split(",")]
    thresholds = None if args.threshold is None else _numbers(args.threshold)

    scores, failed = _scores(args, pictures_to_sort(args.folder, folders, args.copy))
    placements = plan(scores, folders, tops, thresholds)
    acted = 0
    if args.move or args.copy:
        for placement in placements:
            try:
                carry_out(placement, args.copy, folders)
                acted += not placement.there
            except ImageError as error:
                failed.append((placement.image, error.reason))
    else:
        failed += conflicts(placements)
    if args.json:
        print(json.dumps(_document(args, placements, failed), ensure_ascii=False, indent=1))
    else:
        _print(args, placements, folders, names, acted)
    for image, reason in failed:
        print(f"reward-core: {image}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _scores(
    args: argparse.Namespace, pictures: list[Path]
) -> tuple[dict[Path, float], list[tuple[Path, str]]]:
    known = None if args.scores is None else read_scores(args.scores)
    scores, failed = {}, []
    for image in pictures:
        try:
            score = read_score(image, args.key) if known is None else known.get(image.name)
        except ImageError as error:
            failed.append((image, error.reason))
            continue
        if score is None:
            hint = "run `reward-core tag` first" if known is None else f"none in {args.scores}"
            failed.append((image, f"no score ({hint}); left where it is"))
        else:
            scores[image] = score
    return scores, failed


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--threshold: numbers were expected, got {text!r}") from None


def _document(
    args: argparse.Namespace, placements: list[Placement], failed: list[tuple[Path, str]]
) -> dict[str, object]:
    return {
        "done": "moved" if args.move else "copied" if args.copy else None,
        "results": [
            {"image": str(p.image), "score": p.score, "target": str(p.target), "there": p.there}
            for p in placements
        ],
        "failed": [{"image": str(image), "error": reason} for image, reason in failed],
    }


def _print(
    args: argparse.Namespace, placements: list[Placement], folders: list[Path], names: list[str], acted: int
) -> None:
    from rich.table import Table

    table = Table("picture", "score", "into")
    table.columns[0].overflow = "fold"
    shown: list[Placement | None] = list(placements)
    if len(placements) > SHOWN:
        shown[SHOWN // 2 : -SHOWN // 2] = [None]
    by_folder = dict(zip(folders, names))
    for p in shown:
        if p is None:
            table.add_row(f"... {len(placements) - SHOWN} more ...", "", "")
        else:
            there = " (there already)" if p.there else ""
            table.add_row(str(p.image), f"{p.score:.4f}", by_folder[p.target.parent] + there)
    if placements:
        print_table(table)
    sizes = [sum(p.target.parent == folder for p in placements) for folder in folders]
    counts = ", ".join(f"{size} in {name}" for size, name in zip(sizes, names))
    if args.move or args.copy:
        print(f"{'copied' if args.copy else 'moved'} {acted}: {counts}")
    else:
        print(f"{counts}. Nothing was moved: --move or --copy does it.")
