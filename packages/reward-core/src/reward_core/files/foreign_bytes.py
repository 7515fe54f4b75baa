"""The one way to parse bytes that somebody else wrote: any failure becomes an error of this project.

Parsers fail in more ways than their documentation lists: Pillow raises SyntaxError and struct.error, Rust
extensions raise a PanicException that is no Exception, nested input raises RecursionError. A fixed list of
exception types always misses one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ..errors import RewardCoreError
from .limits import Limit

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotReadableError(ValueError):
    """A file that is not read at all: a pipe, a device, or one that is too large."""


@contextmanager
def guarded(error: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Turn whatever a parser raises into an error of this project, with the original as its cause.

    Errors of this project, KeyboardInterrupt and SystemExit pass unchanged.

    Args:
        error: makes the project's error from what the parser raised; see `reason`.
    """
    try:
        yield
    except RewardCoreError:
        raise
    except BaseException as caught:
        if not isinstance(caught, Exception) and not is_panic(caught):
            raise
        raise error(caught) from caught


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a Rust extension, which is not an Exception."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """Return what went wrong, for a message."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error) or "cannot be read"
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def open_regular(path: str | os.PathLike[str], most: Limit) -> BinaryIO:
    """Open a regular file for reading; never wait for a pipe or a device.

    Args:
        path: the file; links are followed.
        most: the largest size in bytes.

    Raises:
        NotReadableError: the path is not a regular file, or it is larger.
        OSError: the file cannot be opened.
    """
    _check_regular(os.stat(path).st_mode)  # before opening, which can already do something to a device
    # O_NONBLOCK: opening a pipe, put there meanwhile, would wait for a writer. Windows knows O_BINARY.
    names = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
    descriptor = os.open(path, sum((getattr(os, name, 0) for name in names), os.O_RDONLY))
    try:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode)
        if status.st_size > most.value:
            sizes = f"{status.st_size:,} bytes, at most {most.value:,} are read"
            raise NotReadableError(f"the file is too large: {sizes} ({most.advice})")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: Limit) -> bytes:
    """Return the content of a regular file. Args and errors: as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most.value)


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "not a regular file")
        raise NotReadableError(f"this is {kind}; give a regular file")
