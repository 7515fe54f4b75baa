"""``reward-core check-precision``: compare faster precisions with the exact scores of your own images."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ..errors import ImageError, InputError
from .common import files_option, positive
from .tables import print_precisions

logger = logging.getLogger(__name__)

GENERIC_PROMPT = "a beautiful picture with many details"


def add_to(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        "check-precision",
        parents=[files_option()],
        help="compare faster precisions with the exact scores of your images",
        description="Score your images in exact and in each faster precision. Print how far the scores "
        "differ, how often the best image of a prompt changes, and the speed.",
    )
    check.add_argument("model", metavar="MODEL", help="name, folder, file or hub repository")
    check.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of images")
    check.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text with one prompt per line, or .json as for `reward-core score` (default: prompts in the "
        "images' metadata, else a generic one)",
    )
    check.add_argument(
        "--precision", nargs="+", metavar="NAME", help="precisions to compare (default: all but exact)"
    )
    check.add_argument(
        "--limit",
        type=positive,
        default=64,
        metavar="N",
        help="most images to score, spread evenly over the folder (default: %(default)s)",
    )
    check.add_argument("--device", help="device to compute on (default: cuda, else mps, else cpu)")
    check.add_argument("--batch-size", type=positive, metavar="N", help="images per batch")
    check.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    check.set_defaults(run=run_check_precision)


def run_check_precision(args: argparse.Namespace) -> int:
    images = _images(args.images, args.limit)
    prompts, source = _prompts(args.prompts, args.images, images)
    from ..models.compare_precisions import compare_precisions, faster_precisions

    found = compare_precisions(
        args.model,
        images,
        prompts,
        list(dict.fromkeys(args.precision or faster_precisions())),
        device=args.device,
        files=args.files,
        batch_size=args.batch_size,
    )
    if args.json:
        document = {"model": args.model, "prompt_source": source, **found.to_dict()}
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        described = {
            "file": f"in '{args.prompts}'",
            "metadata": "from metadata or captions",
            "generic": f"(none found, so {GENERIC_PROMPT!r})",
        }
        print_precisions(args.model, found, described[source])
    for image, reason in found.failed.items():
        logger.error("%s: %s", image, reason)
    return 1 if found.failed else 0


def _images(folder: Path, limit: int) -> list[Path]:
    """Return at most ``limit`` images, spread evenly over the names in a folder."""
    from ..files.sorting import images_in

    if not folder.is_dir():
        raise InputError(f"Cannot read images from '{folder}': no such folder.")
    images = images_in(folder)
    count = min(limit, len(images))
    return [images[i * len(images) // count] for i in range(count)]


def _prompts(file: Path | None, folder: Path, images: list[Path]) -> tuple[list[str], str]:
    """Return different prompts and their source: "file", "metadata" or "generic"."""
    from ..inputs.prompt_file import read_pairs, read_prompt_lines
    from ..metadata import read_prompt

    if file is not None:
        is_json = file.suffix.lower() == ".json"
        read = [prompt for prompt, _ in read_pairs(file, folder)] if is_json else read_prompt_lines(file)
        return list(dict.fromkeys(read)), "file"
    found: dict[str, None] = {}
    for image in images:
        try:
            found[read_prompt(image).text] = None
        except ImageError:
            continue  # an image that cannot be read is reported when it is scored
    return (list(found), "metadata") if found else ([GENERIC_PROMPT], "generic")
