"""``refl``: one module a command.

Exit code 0: done. 2: wrong usage, or something that cannot be had. 3: a run that diverged. 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys

from reward_core.errors import RewardCoreError
from reward_core.runs.logger import command_logging

from ..errors import DivergedError
from . import compare, download_prompts, train

COMMANDS = (train, compare, download_prompts)  # in the order of the help text


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    from .. import __version__

    about = "Fine-tune text-to-image diffusion models against a reward."
    parser = argparse.ArgumentParser(prog="refl", description=about)
    parser.add_argument("--version", action="version", version=f"refl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    args = parser.parse_args(argv)
    try:
        with command_logging("refl"):
            return args.run(args)
    except DivergedError as error:
        print(f"refl: {error}", file=sys.stderr)
        return 3
    except (RewardCoreError, OSError) as error:
        print(f"refl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("refl: interrupted", file=sys.stderr)
        return 130
