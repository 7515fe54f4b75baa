"""The command ``reward-core``, with a module for each subcommand and shared options in common.py.

Exit code 0: all images were scored. 1: some images failed (listed on stderr; the others are scored).
2: wrong usage, or the model is not available.
"""

from __future__ import annotations

import argparse
from functools import cache

from ..printing.command_line import CommandParser, encode_anything, run_command_line
from . import (
    app,
    check_precision,
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
from .convert import add_convert_arguments

__all__ = ["add_convert_arguments", "build_parser", "main", "run_command"]

COMMANDS = (
    rank,
    score,
    tag,
    sort,
    app,
    evaluate,
    check_precision,
    prepare,
    train,
    models,
    convert,
    install_extension,
    example,
)  # in the order of the help text


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    encode_anything()  # the parser prints arguments
    return run_command(build_parser().parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """Run ``args.run(args)``, print errors and warnings to stderr, and return the exit code."""
    return run_command_line("reward-core", lambda: args.run(args), quiet=getattr(args, "quiet", False))


@cache
def build_parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = CommandParser(prog="reward-core", description="Human-preference rewards for generated images.")
    parser.add_argument("--version", action="version", version=f"reward-core {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
