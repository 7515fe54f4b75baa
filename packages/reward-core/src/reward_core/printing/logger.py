"""Logging of console commands: messages go to stderr, results to stdout."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from .escapes import printable, printable_lines

# ``logger.error(text, extra=MULTILINE)`` keeps the line breaks of a message.
MULTILINE = {"multiline": True}
PACKAGES = ("reward_core", "refl", "reward_benchmark")
# Other libraries read these variables at import. A value set by the user is kept.
VERBOSITY = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY")
NO_PROGRESS_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")


@contextmanager
def command_logging(name: str, quiet: bool = False) -> Iterator[None]:
    """Log the three packages to stderr in the block, and silence other libraries.

    On a terminal rich formats the messages. Otherwise each is a line ``NAME: message`` or
    ``NAME: warning: message``. Other libraries log only errors and show progress bars only on a terminal.

    Args:
        name: name of the command.
        quiet: log only warnings and errors, without progress bars of other libraries.
    """
    is_terminal = sys.stderr.isatty()
    loggers = [logging.getLogger(package) for package in PACKAGES]
    original_settings = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    variables = dict.fromkeys(VERBOSITY, "error")
    if quiet or not is_terminal:
        variables |= dict.fromkeys(NO_PROGRESS_BARS, "1")
    variables = {variable: value for variable, value in variables.items() if variable not in os.environ}
    handler = _terminal_handler() if is_terminal else _line_handler(name)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
    os.environ.update(variables)
    try:
        yield
    finally:
        for variable in variables:
            os.environ.pop(variable, None)
        for logger, (handlers, level, propagate) in zip(loggers, original_settings):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def default_logging(name: str) -> None:
    """Log the three packages to stderr unless logging is configured already."""
    loggers = [logging.getLogger(package) for package in PACKAGES]
    if not any(logger.hasHandlers() for logger in loggers):
        for logger in loggers:
            logger.addHandler(_line_handler(name))
            logger.setLevel(logging.INFO)


class _CurrentStderr(io.TextIOBase):
    """A stream that writes to the current sys.stderr (rich replaces it for bars)."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class _LineFormatter(logging.Formatter):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning: " if record.levelno == logging.WARNING else ""
        return f"{self.name}: {kind}{_escaped(record, super().format(record))}"


class _TerminalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _escaped(record, super().format(record))


def _escaped(record: logging.LogRecord, text: str) -> str:
    """Return a message with escaped control characters.

    Newlines are escaped too, unless the record has MULTILINE.
    """
    return printable_lines(text) if getattr(record, "multiline", False) else printable(text)


def _line_handler(name: str) -> logging.Handler:
    handler = logging.StreamHandler(_CurrentStderr())
    handler.setFormatter(_LineFormatter(name))
    return handler


def _terminal_handler() -> logging.Handler:
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    console = Console(file=cast("IO[str]", _CurrentStderr()))
    handler = RichHandler(console=console, show_time=False, show_path=False, highlighter=NullHighlighter())
    handler.setFormatter(_TerminalFormatter())
    return handler
