"""``reward-core tag``: write scores into the metadata of images."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, InputError
from ..files.sorting import images_in
from ..models.model_identity import identify
from .common import batch, load_model, report_failures, scoring_options, with_progress

if TYPE_CHECKING:
    from ..files.score_file import ScoredRow
    from ..metadata import FoundPrompt

SHOWN = 10  # best and worst images in the table
NO_IMAGES = "no PNG, JPEG or WebP images in this folder"


def add_to(commands: argparse._SubParsersAction) -> None:
    tag = commands.add_parser(
        "tag",
        parents=[scoring_options()],
        help="write scores into images' metadata (PNG, JPEG, WebP)",
        description="Score images and write the scores into their metadata. Pixels, other metadata and file "
        "times do not change.",
    )
    tag.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of images")
    prompt = tag.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="one prompt for all images")
    prompt.add_argument(
        "--prompt-from-metadata",
        action="store_true",
        help="read each image's prompt: AUTOMATIC1111, ComfyUI, plain text, or picture.txt beside it",
    )
    tag.add_argument("--key", help='name of the score (default: the model\'s, such as "ImageReward Score")')
    tag.add_argument(
        "--overwrite", action="store_true", help="replace scores of other models under the same name"
    )
    tag.add_argument("--skip-tagged", action="store_true", help="skip images that already have a score")
    tag.add_argument("--dry-run", action="store_true", help="score, but write nothing")
    tag.add_argument("--json", action="store_true", help="print a JSON document to stdout instead of a table")
    tag.set_defaults(run=run_tag)


@dataclass(frozen=True)
class _Tagged:
    row: ScoredRow
    source: str  # of the prompt


def run_tag(args: argparse.Namespace) -> int:
    from ..metadata import check_key

    if args.key is not None:
        check_key(args.key)
    maker = identify(args.model, args.template)
    args.key, args.made_by = args.key or maker.score_key, maker.identity
    found, skipped, failed = _find(args)
    tagged: list[_Tagged] = []
    model = None
    if found:
        model = load_model(args)
        for done in with_progress(_tag(model, found, args), total=len(found)):
            (tagged if done.row.error is None else failed).append(done)
    failures = [done.row for done in failed]
    if args.json:
        print(json.dumps(_document(args, model, tagged, skipped, failures), ensure_ascii=False, indent=1))
    elif tagged:
        _print(args, model, tagged)
    if skipped and not args.json:
        print(f"{len(skipped)} skipped: already scored")
    return report_failures(failures)


def _find(args: argparse.Namespace) -> tuple[list[tuple[Path, FoundPrompt]], list[Path], list[_Tagged]]:
    """Return images with their prompts, images to skip, and images without a prompt."""
    from ..metadata import FoundPrompt, read_prompt

    found, skipped = [], []
    images, empty = _images(args.images)
    if not images:
        raise InputError(f"Cannot tag '{empty[0]}': {NO_IMAGES}.")
    failed = [_failure(folder, NO_IMAGES) for folder in empty]
    for image in images:
        try:
            if _is_tagged(image, args) and args.skip_tagged:
                skipped.append(image)
                continue
            prompt = FoundPrompt(args.prompt, "given") if args.prompt is not None else read_prompt(image)
            found.append((image, prompt))
        except ImageError as error:
            failed.append(_failure(image, error.reason))
    return found, skipped, failed


def _is_tagged(image: Path, args: argparse.Namespace) -> bool:
    """Return whether an image carries a score of this model.

    Raises:
        ImageError: it has another model's score under the same name, and --overwrite is not set.
    """
    from ..metadata import read_stored_score

    stored = read_stored_score(image, args.key)
    if stored is None:
        return False
    if stored.model == args.made_by:
        return not args.skip_tagged or math.isfinite(stored.value)
    if args.overwrite:
        return False
    maker = f"a score of {stored.model}" if stored.model else "a score of an unknown model"
    raise ImageError(
        str(image),
        f"it carries {maker} as {args.key!r} ({stored.text:.20}). Replace it with --overwrite, or choose "
        "another name with --key",
    )


def _tag(model: Any, found: list[tuple[Path, FoundPrompt]], args: argparse.Namespace) -> Iterator[_Tagged]:
    """Score the images and write each score at once, so that an interruption loses none; yield each."""
    from ..metadata import write_score

    prompts, images = [prompt.text for _, prompt in found], [image for image, _ in found]
    for (image, prompt), row in zip(found, model.score_rows(prompts, images, **batch(args))):
        if row.error is None and not args.dry_run:
            try:
                write_score(image, args.key, row.score, model=args.made_by, prompt=args.prompt)
            except ImageError as error:
                yield _failure(image, error.reason)
                continue
        yield _Tagged(row, prompt.source)


def _images(names: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the images and the folders without images; skip captions that ``pictures/*`` matches."""
    images: dict[Path, None] = {}
    empty = []
    for path in map(Path, names):
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            empty.append(path)
        images.update(dict.fromkeys(inside))
    stems = {path.with_suffix("") for path in images if path.suffix.lower() != ".txt"}
    return [p for p in images if p.suffix.lower() != ".txt" or p.with_suffix("") not in stems], empty


def _failure(image: Path, reason: str) -> _Tagged:
    from ..files.score_file import ScoredRow

    return _Tagged(ScoredRow("", str(image), None, reason), "")


def _document(
    args: argparse.Namespace, model: Any, tagged: list[_Tagged], skipped: list[Path], failed: list[ScoredRow]
) -> dict[str, Any]:
    results = [
        {
            "image": done.row.image,
            "prompt": done.row.prompt,
            "prompt_source": done.source,
            "score": done.row.score,
            "percentile": model.percentile(done.row.score),
        }
        for done in tagged
    ]
    return {
        "model": args.model,
        "key": args.key,
        "written": not args.dry_run,
        "results": results,
        "skipped": [str(image) for image in skipped],
        "failed": [{"image": row.image, "error": row.error} for row in failed],
    }


def _print(args: argparse.Namespace, model: Any, tagged: list[_Tagged]) -> None:
    from ..printing.terminal import PlainTable, print_table

    caption = "nothing written (--dry-run)" if args.dry_run else f"written as {args.key!r}"
    quantiles = model.score_quantiles
    if quantiles:
        caption += f"; percentile: {quantiles.source}"
    table = PlainTable(caption=caption)
    table.add_column("image")
    table.add_column("score", justify="right")
    if quantiles:
        table.add_column("percentile", justify="right")
    table.add_column("prompt", wrap=True)
    table.add_column("source")
    rows: list[_Tagged | None] = list(tagged)
    if len(tagged) > 2 * SHOWN:
        by_score = sorted(tagged, key=lambda done: -(done.row.score or 0.0))
        rows = [*by_score[:SHOWN], None, *by_score[-SHOWN:]]
    for done in rows:
        if done is None:
            table.add_row(f"... {len(tagged) - 2 * SHOWN} more ...")
            continue
        prompt = done.row.prompt or ""
        prompt = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        percentile = [f"{model.percentile(done.row.score):.0f}"] if quantiles else []
        table.add_row(done.row.image, f"{done.row.score:.4f}", *percentile, prompt, done.source)
    print_table(table)
