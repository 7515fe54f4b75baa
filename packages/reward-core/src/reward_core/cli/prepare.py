"""``reward-core prepare``: convert published rankings to a training folder."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .common import data_options
from .tables import print_prepared

if TYPE_CHECKING:
    from ..prepare import Prepared

logger = logging.getLogger(__name__)
SUBSETS = ("1k", "2k", "4k", "8k")  # as in prepare/imagerewarddb.py, which would load more


def add_to(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="convert published rankings to a training folder",
        description="Write train.json, validation.json and test.json with checked images. Run the same "
        "command again to resume an interrupted run. Images that cannot be read are skipped and listed in "
        "skipped.json; they do not change the exit code.",
    )
    sources = prepare.add_subparsers(required=True, metavar="SOURCE")

    hub = _source(sources, "imagerewarddb", "ImageRewardDB, from the hub", prepare_from_hub, [])
    hub.add_argument("--subset", choices=SUBSETS, required=True, help="number of training prompts")
    hub.add_argument(
        "--download-root",
        type=Path,
        metavar="DIR",
        help="folder in which downloaded zips are kept (default: OUT, until they are unpacked)",
    )
    hub.add_argument("--keep-zips", action="store_true", help="keep zips after unpacking them")
    hub.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of the dataset (default: main)"
    )

    for name, about, what in (
        ("datasets", "a dataset of the `datasets` library", "folder, or name on the hub"),
        ("pairs", "a file of pairs or rankings", ".json, .jsonl, .csv or .parquet"),
    ):
        parser = _source(sources, name, about, prepare_from_tables, [data_options()])
        parser.add_argument("source", metavar="ID_OR_PATH" if name == "datasets" else "FILE", help=what)
        parser.add_argument(
            "--copy", action="store_true", help="copy image files instead of referring to them"
        )
        for split in ("validation", "test"):
            parser.add_argument(
                f"--{split}",
                type=_share,
                default=0.05,
                metavar="SHARE",
                help=f"share of prompts for {split} if the source has no such split (default: %(default)s)",
            )
        if name == "datasets":
            parser.add_argument("--config", metavar="NAME", help="configuration of the dataset")
        else:
            parser.set_defaults(config=None)


def _source(
    sources: argparse._SubParsersAction,
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], int],
    parents: list[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    parser = sources.add_parser(name, help=about, parents=parents)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    parser.set_defaults(run=run)
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, got {text!r}")
    return share


def prepare_from_hub(args: argparse.Namespace) -> int:
    from ..prepare import prepare_imagerewarddb

    return _report(
        prepare_imagerewarddb(
            args.out,
            args.subset,
            download_root=args.download_root,
            keep_zips=args.keep_zips,
            revision=args.revision,
            say=_say,
        ),
        args.json,
    )


def prepare_from_tables(args: argparse.Namespace) -> int:
    from ..prepare import prepare_rankings

    return _report(
        prepare_rankings(
            args.out,
            args.source,
            images=args.images,
            columns=dict(args.columns),
            config=args.config,
            copy=args.copy,
            validation=args.validation,
            test=args.test,
            say=_say,
        ),
        args.json,
    )


def _say(line: str) -> None:
    logger.info("%s", line)


def _report(prepared: Prepared, as_json: bool) -> int:
    if as_json:
        print(json.dumps(prepared.to_dict(), ensure_ascii=False, indent=1))
    else:
        print_prepared(prepared)
    left_out = sum(figures.skipped + figures.dropped for figures in prepared.splits.values())
    if left_out:
        _say(f"skipped images and prompts are listed in {prepared.skipped}")
    return 0
