"""Log lines of the commands: on stderr, with rich's handler where that is a terminal."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

PACKAGES = ("reward_core", "refl", "reward_benchmark")
LIBRARIES = ("accelerate", "datasets", "diffusers", "filelock", "huggingface_hub", "peft", "transformers")


def configure_logging(command: str, quiet: bool = False) -> None:
    """Have this project's log lines on stderr as ``command: text``, and those of libraries off.

    Args:
        command: name that begins each line.
        quiet: warnings and errors only.
    """
    handler = _handler(command)
    handler.setFormatter(_Formatter(command))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def default_logging(command: str) -> None:
    """Configure logging, unless the program that uses this package did."""
    if not any(logging.getLogger(name).hasHandlers() for name in PACKAGES):
        configure_logging(command)


class _Formatter(logging.Formatter):
    """``command: text``, or ``command: warning: text``."""

    def __init__(self, command: str):
        super().__init__()
        self.command = command

    def format(self, record: logging.LogRecord) -> str:
        warning = "warning: " if record.levelno == logging.WARNING else ""
        return f"{self.command}: {warning}{super().format(record)}"


def _handler(command: str) -> logging.Handler:
    if not sys.stderr.isatty():
        return _StderrHandler()
    from rich.console import Console
    from rich.logging import RichHandler

    class Handler(RichHandler):
        """Lines above a progress bar, without columns, markup or colors of numbers."""

        def render_message(self, record: logging.LogRecord, message: str) -> Text:
            from rich.text import Text

            return Text(message, style="yellow" if record.levelno >= logging.WARNING else "")

    console = Console(stderr=True, soft_wrap=True)
    return Handler(console=console, show_time=False, show_level=False, show_path=False)


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stderr`` is at that moment."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
