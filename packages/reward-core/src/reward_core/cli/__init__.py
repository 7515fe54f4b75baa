"""``reward-core``: one module a command, what they share in common.py.

Exit code 0: all scored. 1: some images failed (named on stderr; the others are scored). 2: wrong
usage, or a model that cannot be had.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys

from ..errors import RewardCoreError
from ..runs.logger import command_logging
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
from .common import log_warnings
from .convert import add_convert_arguments

logger = logging.getLogger(__name__)

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
    """Run ``args.run(args)`` with errors and warnings as lines on stderr; return the exit code."""
    with command_logging("reward-core", quiet=getattr(args, "quiet", False)):
        try:
            with log_warnings():
                return args.run(args)
        except (RewardCoreError, OSError) as error:
            logger.error("%s", error)
            return 2
        except KeyboardInterrupt:
            logger.error("interrupted")
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
