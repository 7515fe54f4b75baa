"""``reward-core score``: score many (prompt, image) pairs and write the scores to a file."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from ..printing.counts import counted
from ..printing.escapes import printable, printable_lines
from ..runs.sigterm import sigterm_interrupts
from .common import (
    batch,
    given_models,
    judge_choices,
    load_models,
    positive,
    report_failures,
    scoring_options,
    with_progress,
)

if TYPE_CHECKING:
    from ..bulk import BulkSettings
    from ..bulk.sources import SourceSpec

logger = logging.getLogger(__name__)
# Options that only bulk runs have, under argparse's names.
BULK_ONLY = (
    *("prompt_from_metadata", "prompt_column", "image_column", "split", "configuration", "format"),
    *("engine", "devices", "address", "workers", "shard_rows", "cache", "threads", "decoders"),
    *("reproducible", "overwrite"),
)


def add_to(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser(
        "score",
        parents=[scoring_options()],
        help="score many (prompt, image) pairs and write a file",
        description="Score many (prompt, image) pairs. All inputs except --prompts are streamed and may have "
        "millions of rows. Scores are written in shards. Run the same command again to resume an "
        "interrupted run; a finished one is kept. With several models, each has a column with its name.",
    )
    inputs = score.add_argument_group("input, one of these").add_mutually_exclusive_group(required=True)
    inputs.add_argument("--manifest", type=Path, help=".csv, .jsonl or .parquet file with one pair per row")
    inputs.add_argument(
        "--folder", type=Path, help="folder of images with their prompts beside them: a.png, a.txt"
    )
    inputs.add_argument("--tars", nargs="+", help="WebDataset tars: paths, with {000..999} or *")
    inputs.add_argument("--dataset", help="dataset of the datasets library: id, path or saved folder")
    inputs.add_argument(
        "--prompts",
        type=Path,
        help="JSON file for use with --images: the original's format, or {image: prompt}",
    )
    score.add_argument(
        "--prompt-from-metadata",
        action="store_true",
        help="with --folder: read prompts from the images' metadata, or else from the .txt beside them",
    )
    score.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of the images (default: the folder of the manifest)",
    )
    score.add_argument(
        "--prompt-column", metavar="NAME", help="column of prompts (default: prompt; in tars: txt)"
    )
    score.add_argument(
        "--image-column", metavar="NAME", help="column of images (default: image; in tars: any image)"
    )
    score.add_argument("--split", help="split of the dataset (default: train)")
    score.add_argument("--configuration", metavar="NAME", help="configuration of a dataset that has several")
    score.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help=".parquet, .csv or .jsonl file, or a folder (with --prompts: .csv, .json, .jsonl or .parquet)",
    )
    score.add_argument(
        "--format", choices=("parquet", "csv", "jsonl"), help="format of the files in an output folder"
    )
    score.add_argument(
        "--devices", metavar="A,B", help="devices with one process each, such as cuda:0,cuda:1"
    )
    score.add_argument(
        "--engine", choices=("local", "ray"), help="where to compute; ray: on a cluster (default: local)"
    )
    score.add_argument("--address", help="address of the Ray cluster (default: start one on this machine)")
    score.add_argument("--workers", type=positive, metavar="N", help="Ray actors (default: one per GPU)")
    score.add_argument("--shard-rows", type=positive, metavar="N", help="rows per shard (default: 512)")
    score.add_argument("--cache", type=int, metavar="N", help="encoded images to cache (default: 256)")
    score.add_argument(
        "--threads", type=positive, metavar="N", help="threads or processes per device that decode images"
    )
    score.add_argument(
        "--decoders",
        choices=("auto", "threads", "processes"),
        help="what decodes images (default: processes for many images on a GPU, otherwise threads)",
    )
    score.add_argument(
        "--reproducible", action="store_true", help="do not compile, so that a resumed run rounds the same"
    )
    score.add_argument(
        "--overwrite",
        action="store_true",
        help="start over if --out is finished, or has scores of other settings or input",
    )
    score.add_argument("--quiet", action="store_true", help="print only errors and warnings to stderr")
    score.add_argument("--json", action="store_true", help="print a JSON summary to stdout")
    score.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    return run_pairs(args) if args.prompts else run_bulk(args)


def run_pairs(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..files.score_file import check_writable, write_rows
    from ..inputs.prompt_file import read_pairs

    if args.images is None:
        raise InputError("Cannot use --prompts without --images. Set --images to the folder of the images.")
    refused = [name for name in (*BULK_ONLY, "quiet", "json") if getattr(args, name) not in (None, False)]
    if refused:
        raise InputError(
            f"Cannot use {_first_option(refused)} with --prompts. Give the pairs with --manifest."
        )
    out = Path(args.out)
    check_writable(out)
    if out.exists() and out.samefile(args.prompts):
        raise InputError(f"Cannot write '{out}': it is the file of --prompts. Choose another --out.")
    pairs = read_pairs(args.prompts, args.images)
    group = load_models(args)
    prompts, images = [prompt for prompt, _ in pairs], [image for _, image in pairs]
    rows = list(with_progress(group.score_rows(prompts, images, **batch(args)), total=len(pairs)))
    write_rows(rows, out, group.names)
    failed = [row for row in rows if row.error is not None]
    print(printable(f"{counted(len(rows) - len(failed), 'score')} in {out}"), file=sys.stderr)
    return report_failures(failed)


def run_bulk(args: argparse.Namespace) -> int:
    """Score a streamed input; an interrupted run exits with 130 (SIGTERM: 143)."""
    import warnings

    from ..bulk import score_to_file
    from ..bulk.progress_bar import progress_bar
    from ..errors import ClippedLevelsWarning, PromptTruncatedWarning, RunInterrupted

    source, settings = bulk_source(args), bulk_settings(args)
    # The summary counts truncated prompts; a warning for each could be millions of lines.
    warnings.simplefilter("ignore", PromptTruncatedWarning)
    if args.quiet:
        warnings.simplefilter("ignore", ClippedLevelsWarning)
    try:
        # Ray logs to stdout, which is reserved for the summary.
        with (
            sigterm_interrupts() as terminated,
            redirect_stdout(sys.stderr),
            progress_bar(args.quiet) as on_progress,
        ):
            summary = score_to_file(
                source,
                args.out,
                settings,
                file_format=args.format,
                overwrite=args.overwrite,
                on_progress=on_progress,
            )
    except RunInterrupted as interrupt:
        logger.error("%s; the same command resumes from there", interrupt)
        return 143 if terminated else 130
    except KeyboardInterrupt:
        logger.error("interrupted before scoring began; run the same command again")
        return 143 if terminated else 130
    if args.json:
        print(json.dumps(summary.to_dict(), ensure_ascii=False))
    if not args.quiet:
        print(printable_lines(summary.in_words()), file=sys.stderr)
        if args.folder and not args.prompt_from_metadata and "no prompt" in summary.errors:
            print("prompts come from .txt files; --prompt-from-metadata reads images' own", file=sys.stderr)
    return 1 if summary.failed else 0


def bulk_source(args: argparse.Namespace) -> SourceSpec:
    from ..bulk import HubDataset, ImageFolder, Manifest, Tars
    from ..bulk.progress_bar import bar_shown
    from ..errors import InputError

    if args.images is not None and not args.manifest:
        raise InputError("Cannot use --images without --manifest or --prompts. Add one of them.")
    if args.prompt_from_metadata and not args.folder:
        raise InputError("Cannot use --prompt-from-metadata without --folder. Add --folder.")
    columns = _given(args, "prompt_column", "image_column")
    of_dataset = _given(args, "split", "configuration")
    if of_dataset and args.dataset is None:
        raise InputError(f"Cannot use {_first_option(of_dataset)} without --dataset. Add --dataset.")
    if columns and args.folder:
        message = "the prompt is in the .txt beside each image"
        raise InputError(f"Cannot use {_first_option(columns)} with --folder: {message}.")
    if args.manifest:
        return Manifest(args.manifest, images=args.images, **columns)
    if args.folder:
        return ImageFolder(args.folder, args.prompt_from_metadata)
    if args.tars:
        return Tars(tuple(args.tars), **columns)
    return HubDataset(args.dataset, **columns, **of_dataset, bars=bar_shown(args.quiet))


def bulk_settings(args: argparse.Namespace) -> BulkSettings:
    from ..bulk import BulkSettings
    from ..errors import InputError
    from ..models.load_options import JudgeOptions

    if args.device and args.devices:
        raise InputError("Cannot use both --device and --devices. Give one of them.")
    devices = tuple(name.strip() for name in (args.devices or args.device or "").split(",") if name.strip())
    names = ("engine", "address", "workers", "batch_size", "shard_rows", "cache", "threads", "decoders")
    chosen = _given(args, *names)
    chosen["reproducible"] = args.reproducible
    return BulkSettings(
        model=tuple(given_models(args)),
        files=args.files,
        precision=args.precision,
        devices=devices,
        judge=JudgeOptions(**judge_choices(args)),
        **chosen,
    )


def _given(args: argparse.Namespace, *names: str) -> dict:
    """Return the options of these names that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _first_option(names: Iterable[str]) -> str:
    """Return the first option as written on the command line."""
    return f"--{next(iter(names)).replace('_', '-')}"
