"""What every console command shares: its parser's errors, lines on stderr, and how errors end it."""

from __future__ import annotations

import argparse
import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from ..errors import ClippedLevelsWarning, KeyMismatchError, RewardCoreError, WorkerError
from .escapes import printable, printable_lines

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


def report(command: str, message: object) -> None:
    """Print ``command: message`` as one line on stderr."""
    print(f"{command}: {printable(message)}", file=sys.stderr, flush=True)


def report_error(command: str, error: BaseException) -> None:
    """Print an error on stderr: one line, or the lines that its class has."""
    lines = error.lines if isinstance(error, (KeyMismatchError, WorkerError)) else [str(error)]
    text = "\n".join(map(printable, lines))
    print(f"{command}: {text}", file=sys.stderr, flush=True)


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
) -> int:
    """Run a command, with errors and warnings as lines on stderr. Returns its exit code.

    Args:
        exit_codes: errors beside RewardCoreError and OSError that are lines, and their exit codes.
        interrupted: the line for Ctrl-C.
    """
    encode_anything()
    own = exit_codes or {}
    try:
        with warnings_as_lines(command):
            return run()
    except KeyboardInterrupt:
        report(command, interrupted)
        return 130
    except Exception as error:
        code = next((code for kind, code in own.items() if isinstance(error, kind)), 2)
        if isinstance(error, (RewardCoreError, *own)):
            report_error(command, error)
        elif advice := exhausted(error):
            report(command, advice)
        elif isinstance(error, OSError):
            report_error(command, error)
        else:
            raise
        return code


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
def warnings_as_lines(command: str) -> Iterator[None]:
    """Print warnings as lines on stderr; of clipped images the first few, then how many more there are."""
    clipped: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, ClippedLevelsWarning):
            clipped.add(str(message))
            if len(clipped) > CLIPPED_SHOWN:
                return
        report(command, f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            if (more := len(clipped) - CLIPPED_SHOWN) > 0:
                report(command, f"warning: {more:,} more images like these")
