"""``reward-core``: one module a command, what they share in common.py.

Exit code 0: all scored. 1: some images failed (named on stderr; the others are scored). 2: wrong
usage, or a model that cannot be had.
"""

from __future__ import annotations

import argparse
import io
import sys

from ..errors import RewardCoreError
from . import (
    app,
    convert,
    evaluate,
    example,
    install_extension,
    models,
    prepare,
    rank,
    score,
    sort,
    tag,
    train,
)
from .common import warnings_as_lines
from .convert import add_convert_arguments

__all__ = ["add_convert_arguments", "build_parser", "main", "run_command"]

COMMANDS = (
    rank,
    score,
    tag,
    sort,
    app,
    evaluate,
    prepare,
    train,
    models,
    convert,
    install_extension,
    example,
)  # in the order of the help text


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold bytes that are no UTF-8
            stream.reconfigure(errors="backslashreplace")
    return run_command(build_parser().parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """``args.run(args)`` with errors and warnings as lines on stderr."""
    try:
        with warnings_as_lines("reward-core"):
            return args.run(args)
    except (RewardCoreError, OSError) as error:
        print(f"reward-core: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reward-core: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="reward-core", description="Human-preference rewards for generated images."
    )
    parser.add_argument("--version", action="version", version=f"reward-core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
