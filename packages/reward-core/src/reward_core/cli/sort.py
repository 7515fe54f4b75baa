"""``reward-core sort``: sort images into folders by their scores."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, InputError
from ..files.sorting import Placement, carry_out, conflicts, images_to_sort, plan
from ..printing.escapes import printable

if TYPE_CHECKING:
    from ..metadata.image_scores import ImageScores

logger = logging.getLogger(__name__)
SHOWN = 40  # rows of the table
NO_SCORE = "reward-core tag"  # in the reason of an image without a score


def add_to(commands: argparse._SubParsersAction) -> None:
    sort = commands.add_parser(
        "sort",
        help="sort images into folders by their scores",
        description="Sort images into folders by the scores that `reward-core tag` wrote into them. Without "
        "--move or --copy, only print the plan. Files are never overwritten, and captions (picture.txt) "
        "follow their images. After an interruption, run the same command again. Images are ranked within "
        "their prompt, because most scorers are not comparable across prompts.",
    )
    sort.add_argument("folder", type=Path, metavar="DIR", help="folder of the images (not its subfolders)")
    sort.add_argument(
        "--into",
        required=True,
        metavar="BEST,...,REST",
        help="names of folders in DIR, from the best to the worst",
    )
    cuts = sort.add_mutually_exclusive_group(required=True)
    cuts.add_argument(
        "--top",
        metavar="N|N%,...",
        help="number or share of images for each folder except the last: 20, 10%%, or 10%%,30%%",
    )
    cuts.add_argument(
        "--threshold",
        metavar="SCORE,...",
        help="lowest score for each folder except the last",
    )
    sort.add_argument(
        "--across-prompts",
        action="store_true",
        help="rank the images of all prompts together; for scorers that are comparable across prompts, see "
        "`reward-core models --json`",
    )
    sort.add_argument(
        "--key", help="name of the score, or with --scores of the column (default: the only one)"
    )
    sort.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="read the scores from a file of `reward-core score`",
    )
    do = sort.add_mutually_exclusive_group()
    do.add_argument("--move", "--yes", action="store_true", dest="move", help="move the images")
    do.add_argument("--copy", action="store_true", help="copy the images")
    sort.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    sort.set_defaults(run=run_sort)


def run_sort(args: argparse.Namespace) -> int:
    from ..metadata import check_key
    from ..metadata.image_scores import counts, score_keys, scores_in_file, scores_in_images
    from ..models.score_meaning import is_comparable

    if not args.folder.is_dir():
        raise InputError(f"Cannot sort '{args.folder}': no such folder.")
    if args.key is not None and args.scores is None:
        check_key(args.key)
    names = [name.strip() for name in args.into.split(",")]
    folders = [args.folder / name for name in names]
    if not all(names) or any(folder.resolve() == args.folder.resolve() for folder in folders):
        raise InputError(
            f"Cannot sort into {args.into!r}: expected names of folders other than DIR itself. Change --into."
        )
    tops = None if args.top is None else [top.strip() for top in args.top.split(",")]
    thresholds = None if args.threshold is None else _numbers(args.threshold)

    images = images_to_sort(args.folder, folders, args.copy)
    if not images:
        raise InputError(f"Cannot sort '{args.folder}': no images in this folder.")
    stored = (
        scores_in_images(images, args.key)
        if args.scores is None
        else scores_in_file(images, args.scores, args.key)
    )
    failed = stored.failed
    if failed and not stored.scores and not args.json and all(NO_SCORE in reason for _, reason in failed):
        if keys := score_keys(images):
            raise InputError(
                f"Cannot sort '{args.folder}' by {args.key!r}: none of its {len(failed)} images has this "
                f"score. They have {counts(keys)}. Change --key."
            )
        raise InputError(
            f"Cannot sort '{args.folder}': none of its {len(failed)} images has a score. Run "
            f"`reward-core tag {shlex.quote(str(args.folder))} --prompt-from-metadata` first."
        )
    groups = _groups(args, stored)
    placements = [p for group in groups for p in plan(group, folders, tops, thresholds)]
    prompts = len(stored.by_prompt().keys() - {None})
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
        print(json.dumps(_document(args, stored, prompts, placements), ensure_ascii=False, indent=1))
    else:
        _print(args, stored, placements, folders, names, acted)
        print(printable(_ranked(args, stored, prompts)))
    if prompts > 1 and args.top is None and not args.across_prompts and not is_comparable(stored.model):
        logger.warning(
            "these images have %d different prompts, and scores of different prompts are not comparable, but "
            "--threshold is the same for all. --top ranks within each prompt; --across-prompts accepts it",
            prompts,
        )
    for image, reason in failed:
        logger.error("%s: %s", image, reason)
    return 1 if failed else 0


def _groups(args: argparse.Namespace, stored: ImageScores) -> list[dict[Path, float]]:
    """Return the scores of the images that are ranked together.

    Images without a known prompt are ranked together if no prompt is known at all; otherwise they fail.
    """
    everything = {image: score.value for image, score in stored.scores.items()}
    groups = stored.by_prompt()
    if args.across_prompts or args.top is None or groups.keys() <= {None}:
        return [everything]
    unknown = groups.pop(None, {})
    reason = "no prompt is known for its score; left where it is (--across-prompts ranks all images together)"
    stored.failed += [(image, reason) for image in unknown]
    return list(groups.values())


def _ranked(args: argparse.Namespace, stored: ImageScores, prompts: int) -> str:
    """Return the line of the summary about prompts."""
    from ..models.score_meaning import is_comparable

    if prompts == 0:
        return "prompts unknown: all images ranked together"
    count = f"{prompts} prompt{'s' * (prompts != 1)}"
    if args.top is None:
        return f"{count}, the same threshold for all"
    if args.across_prompts:
        return f"{count}, all images ranked together"
    comparable = prompts > 1 and is_comparable(stored.model)
    hint = f"; {stored.model} is comparable across prompts, see --across-prompts" if comparable else ""
    return f"{count}, images ranked within their prompt{hint}"


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"Cannot use --threshold {text!r}: expected numbers.") from None


def _document(
    args: argparse.Namespace, stored: ImageScores, prompts: int, placements: list[Placement]
) -> dict[str, object]:
    return {
        "done": "moved" if args.move else "copied" if args.copy else None,
        "key": stored.key,
        "model": stored.model,
        "prompts": prompts,
        "across_prompts": bool(args.across_prompts or args.top is None),
        "results": [
            {
                "image": str(p.image),
                "prompt": stored.scores[p.image].prompt,
                "score": p.score,
                "target": str(p.target),
                "there": p.there,
            }
            for p in placements
        ],
        "failed": [{"image": str(image), "error": reason} for image, reason in stored.failed],
    }


def _print(
    args: argparse.Namespace,
    stored: ImageScores,
    placements: list[Placement],
    folders: list[Path],
    names: list[str],
    acted: int,
) -> None:
    from ..printing.terminal import PlainTable, print_table

    table = PlainTable("image", "score", "into")
    rows: list[Placement | None] = list(placements)
    if len(placements) > SHOWN:
        rows[SHOWN // 2 : -SHOWN // 2] = [None]
    by_folder = dict(zip(folders, names))
    for p in rows:
        if p is None:
            table.add_row(f"... {len(placements) - SHOWN} more ...", "", "")
        else:
            there = " (there already)" if p.there else ""
            table.add_row(str(p.image), f"{p.score:.4f}", by_folder[p.target.parent] + there)
    if placements:
        print_table(table)
        model = "model unknown" if stored.model is None else f"model: {stored.model}"
        print(printable(f"sorted by {args.scores if stored.key is None else repr(stored.key)} ({model})"))
    sizes = [sum(p.target.parent == folder for p in placements) for folder in folders]
    counts = ", ".join(f"{size} in {name}" for size, name in zip(sizes, names))
    if args.move or args.copy:
        print(printable(f"{'copied' if args.copy else 'moved'} {acted}: {counts}"))
    else:
        print(printable(counts))
        print("Nothing was moved. Use --move or --copy.")
