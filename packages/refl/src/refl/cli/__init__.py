"""The command ``refl``, with a module for each subcommand.

Exit code 0: done. 2: wrong usage, or a file or model is not available. 3: the run diverged. 130: interrupted.
"""

from __future__ import annotations

from reward_core.printing.command_line import CommandParser, encode_anything, run_command_line

from ..errors import DivergedError
from . import compare, download_prompts, push, train

COMMANDS = (train, compare, push, download_prompts)  # in the order of the help text


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    from .. import __version__

    about = "Fine-tune text-to-image diffusion models against a reward."
    encode_anything()  # the parser prints arguments
    parser = CommandParser(prog="refl", description=about)
    parser.add_argument("--version", action="version", version=f"refl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    args = parser.parse_args(argv)
    return run_command_line("refl", lambda: args.run(args), {DivergedError: 3})
