"""What every console command shares: its parser's errors, lines on stderr, and how errors end it."""

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
CLIPPED_SHOWN = 3  # images with clipped levels that are named

OUT_OF_MEMORY = (
    "Cannot finish the command: there is not enough memory. Use a smaller batch size, fewer workers or "
    "processes, or smaller images."
)
TOO_DEEP = (
    "Cannot finish the command: an input is nested too deeply. Check the JSON, YAML and metadata of the "
    "files that were given."
)
# What torch, Python and the system's loader say where they raise no MemoryError.
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
)


class CommandParser(argparse.ArgumentParser):
    """A parser whose error lines show arguments with control characters as escapes."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

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
    """Log an error: one line, or the lines that its class has."""
    if isinstance(error, (KeyMismatchError, WorkerError)):
        logger.error("%s", "\n".join(map(printable, error.lines)), extra=MULTILINE)
    else:
        logger.error("%s", error)


def encode_anything() -> None:
    """Let stdout and stderr take every string, such as file names whose bytes are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def printable_output() -> Iterator[None]:
    """Escape what any library prints meanwhile, such as a traceback with a visitor's text in it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_PrintableStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _PrintableStream(io.TextIOBase):
    """A stream that passes lines on with visible escapes."""

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
    """Run a command, with log lines, errors and warnings on stderr, and return its exit code.

    Args:
        command: name that begins each line.
        exit_codes: by kind of error, where it is not 2.
        interrupted: the line for Ctrl-C.
        quiet: only warnings and errors.
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
    """Return what to report when memory (of the machine or a device) or the stack ran out; else None."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OUT_OF_MEMORY
    words = str(error).lower()
    if isinstance(error, (RuntimeError, ImportError)) and any(part in words for part in _MEMORY_WORDS):
        return OUT_OF_MEMORY
    return None


@contextmanager
def log_warnings() -> Iterator[None]:
    """Log what Python warns of; of clipped images the first few, then how many more there are.

    Filters are left as they are: restoring them would make every warning of the process repeat, and is not
    thread-safe. A command that ignores a kind of warning sets a filter for its whole process.
    """
    clipped: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, ClippedLevelsWarning):
            clipped.add(str(message))
            if len(clipped) > CLIPPED_SHOWN:
                return
        logger.warning("%s", message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before
        if (more := len(clipped) - CLIPPED_SHOWN) > 0:
            logger.warning("%s more images like these", f"{more:,}")
