"""Common parts of console commands: parser errors, log lines and exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from ..errors import ClippedLevelsWarning, KeyMismatchError, RewardCoreError, WorkerError
from .escapes import printable, printable_lines
from .logger import MULTILINE, command_logging

logger = logging.getLogger(__name__)

BROKEN_PIPE = 141  # exit code of a command whose output nobody reads any more: 128 + SIGPIPE
CLIPPED_SHOWN = 3  # number of warnings about clipped images that are printed

OUT_OF_MEMORY = (
    "Cannot finish the command: there is not enough memory. Use a smaller batch size, fewer workers or "
    "processes, or smaller images."
)
TOO_DEEP = (
    "Cannot finish the command: an input is nested too deeply. Check the JSON, YAML and metadata of the "
    "input files."
)
# Messages of torch, Python and the system's loader for errors other than MemoryError.
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
    "could not create a primitive",  # of oneDNN
)


class CommandParser(argparse.ArgumentParser):
    """An argument parser that escapes control characters in its errors."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def parse_known_args(self, args=None, namespace=None):
        """Parse arguments; ``settings`` (KEY=VALUE) may stand between options, which argparse cannot do."""
        namespace, others = super().parse_known_args(args, namespace)
        if hasattr(namespace, "settings"):
            more = [text for text in others if "=" in text and not text.startswith("-")]
            namespace.settings = [*namespace.settings, *more]
            others = [text for text in others if text not in more]
        return namespace, others

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        closed = not flush_stdout()
        super().exit(BROKEN_PIPE if closed and not status else status, message)


def flush_stdout() -> bool:
    """Flush stdout; return False if its reader has closed the pipe, as `head` does.

    Python would otherwise report the closed pipe with a traceback when the process ends.
    """
    try:
        sys.stdout.flush()
        closed = _reader_is_gone()
    except BrokenPipeError:
        closed = True
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return not closed


def _reader_is_gone() -> bool:
    """Return whether stdout is a pipe that its reader has closed; False where it cannot be asked."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows, or a stream without a file
        return False


def report_error(error: BaseException) -> None:
    """Log an error in one line, or in several lines if its class has them."""
    if isinstance(error, (KeyMismatchError, WorkerError)):
        logger.error("%s", "\n".join(map(printable, error.lines)), extra=MULTILINE)
    else:
        logger.error("%s", error)


def encode_anything() -> None:
    """Let stdout and stderr print every string, such as file names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def printable_output() -> Iterator[None]:
    """Escape everything printed in the block, such as a visitor's text in a traceback."""
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_PrintableStream, original)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = original


class _PrintableStream(io.TextIOBase):
    """A stream that prints control characters as escapes."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable_lines(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def run_command_line(
    command: str,
    run: Callable[[], int],
    exit_codes: dict[type[Exception], int] | None = None,
    interrupted: str = "interrupted",
    quiet: bool = False,
) -> int:
    """Run a command with logging to stderr and return its exit code.

    Args:
        command: name of the command, printed before each line.
        run: function that runs the command and returns its exit code.
        exit_codes: exit codes by class of error (default: 2).
        interrupted: message for Ctrl-C.
        quiet: print only warnings and errors.
    """
    encode_anything()
    with command_logging(command, quiet):
        try:
            with log_warnings():
                code = run()
            return code if flush_stdout() else BROKEN_PIPE
        except KeyboardInterrupt:
            logger.error("%s", interrupted)
            return 130
        except Exception as error:
            if isinstance(error, BrokenPipeError) and not flush_stdout():
                return BROKEN_PIPE
            advice = None if isinstance(error, RewardCoreError) else exhausted(error)
            if advice:
                logger.error("%s", advice)
            elif isinstance(error, (RewardCoreError, OSError)):
                report_error(error)
            else:
                raise
            codes = (exit_codes or {}).items()
            return next((code for kind, code in codes if isinstance(error, kind)), 2)


def exhausted(error: BaseException) -> str | None:
    """Return a message if an error means that memory or the stack ran out, else None."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OUT_OF_MEMORY
    text = str(error).lower()
    if isinstance(error, (RuntimeError, ImportError)) and any(words in text for words in _MEMORY_WORDS):
        return OUT_OF_MEMORY
    return None


@contextmanager
def log_warnings() -> Iterator[None]:
    """Log Python's warnings, but only the first few about clipped images.

    Warning filters are not changed: restoring them would repeat every warning of the process and is not
    thread-safe. A command that ignores a category sets a filter for its whole process.
    """
    clipped: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, ClippedLevelsWarning):
            clipped.add(str(message))
            if len(clipped) > CLIPPED_SHOWN:
                return
        logger.warning("%s", message)

    original, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = original
        if (more := len(clipped) - CLIPPED_SHOWN) > 0:
            logger.warning("%s more images like these", f"{more:,}")
