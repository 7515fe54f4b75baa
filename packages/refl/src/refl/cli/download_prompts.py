"""``refl download-prompts``: download the original's 10,000 prompts and check their sha256."""

from __future__ import annotations

import argparse
from pathlib import Path

from reward_core.printing.escapes import printable

from ..data.prompts import ORIGINAL_ADDRESS, download_prompts, read_prompts


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "download-prompts", help="download the original's 10,000 prompts and check their sha256"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, such as data/refl_data.json"
    )
    parser.add_argument(
        "--address", default=ORIGINAL_ADDRESS, help="address to download from (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    path = download_prompts(args.out, args.address)
    print(printable(f"{path}: {len(read_prompts(path)):,} prompts"))
    return 0
