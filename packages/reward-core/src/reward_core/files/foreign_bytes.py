"""Safe parsing of untrusted bytes: every failure becomes an error of this project.

Parsers fail in more ways than they document: Pillow raises SyntaxError and struct.error, Rust extensions
raise a PanicException that is not an Exception, nested input raises RecursionError. A list of exception types
would always be incomplete.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
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
# O_NONBLOCK: if the file is a pipe by now, opening it would wait for a writer. O_BINARY is for Windows.
_FLAG_NAMES = ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
_FLAGS = sum(getattr(os, name, 0) for name in _FLAG_NAMES)
SMALL = 2**20  # bytes of a file that `open_small` reads at once


class NotReadableError(ValueError):
    """A file that is refused: a pipe, a device, or a file that is too large."""


class guarded:
    """A context that converts any exception of a parser to an error of this project.

    The exception becomes the cause of the error. Errors of this project, KeyboardInterrupt and SystemExit are
    not converted. It is a class because it is entered several times for each image.

    Args:
        error: function that makes the error from the exception of the parser (see `reason`).
    """

    __slots__ = ("error",)

    def __init__(self, error: Callable[[BaseException], Exception]):
        self.error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, caught: BaseException | None, traceback: object) -> None:
        if caught is None or isinstance(caught, RewardCoreError):
            return
        if isinstance(caught, Exception) or is_panic(caught):
            raise self.error(caught) from caught


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a Rust extension (not an Exception)."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """Return the reason of an error, for a message."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error) or "cannot be read"
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def open_regular(path: str | os.PathLike[str], most: Limit) -> BinaryIO:
    """Open a regular file for reading, without ever waiting for a pipe or a device.

    Args:
        path: the file; links are followed.
        most: largest size in bytes.

    Raises:
        NotReadableError: the path is not a regular file, or the file is too large.
        OSError: the file cannot be opened.
    """
    descriptor, _ = _open_regular(path, most)
    return os.fdopen(descriptor, "rb")


def open_small(path: str | os.PathLike[str], most: Limit) -> BinaryIO:
    """Open a regular file like `open_regular`, and read it at once if it is small.

    This needs fewer system calls than reading it in parts.
    """
    descriptor, size = _open_regular(path, most)
    file = os.fdopen(descriptor, "rb")
    if size > SMALL:
        return file
    with file:
        return io.BytesIO(file.read(size))


def _open_regular(path: str | os.PathLike[str], most: Limit) -> tuple[int, int]:
    """Return the descriptor and the size of a regular file."""
    _check_regular(os.stat(path).st_mode)  # before opening, which may have effects on a device
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode)
        if status.st_size > most.value:
            sizes = f"{status.st_size:,} bytes, at most {most.value:,} are read"
            raise NotReadableError(f"the file is too large: {sizes} ({most.advice})")
        return descriptor, status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: Limit) -> bytes:
    """Return the content of a regular file. Args and Raises are as in `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most.value)


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "not a regular file")
        raise NotReadableError(f"this is {kind}; give a regular file")
