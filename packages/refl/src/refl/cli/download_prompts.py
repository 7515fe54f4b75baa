"""``refl download-prompts``: the original's 10,000 prompts, checked."""

from __future__ import annotations

import argparse
from pathlib import Path

from reward_core.printing.escapes import printable

from ..prompts import ORIGINAL_ADDRESS, download_prompts, read_prompts


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "download-prompts", help="fetch the original's 10,000 prompts, sha256-checked"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as data/refl_data.json")
    parser.add_argument("--address", default=ORIGINAL_ADDRESS, help="a mirror (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    path = download_prompts(args.out, args.address)
    print(printable(f"{path}: {len(read_prompts(path)):,} prompts"))
    return 0
