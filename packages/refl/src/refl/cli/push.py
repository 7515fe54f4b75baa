"""``refl push``: upload the model of a finished run to the hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from reward_core.printing.escapes import printable


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("push", help="upload the model of a finished run to the hub")
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--to",
        default="",
        metavar="OWNER/NAME",
        help="repository, created if needed (default: run.push_to_hub of the run)",
    )
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..publishing.push import push

    print(printable(f"refl: uploaded to {push(args.folder, args.to, args.private)}"))
    return 0
