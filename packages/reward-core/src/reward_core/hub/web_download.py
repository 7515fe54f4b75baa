"""Download a file from an untrusted server."""

from __future__ import annotations

import time
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO, cast
from urllib.error import URLError
from urllib.request import urlopen

from ..files.limits import Limit
from ..printing.escapes import printable

# Seconds without data after which a connection is closed.
DOWNLOAD_TIMEOUT = Limit("DOWNLOAD_TIMEOUT", 20)
# Slowest mean speed over MEASURED_SECONDS. A file of 1.7 GB would take three weeks.
MIN_BYTES_PER_SECOND = 1000
MEASURED_SECONDS = 60.0
# Largest size of a file. The largest published one, BLIP's weights, has 1.7 GB.
MAX_DOWNLOAD_BYTES = Limit("MAX_DOWNLOAD_BYTES", 16 * 2**30)
_PIECE = 1 << 20


def download(url: str, path: Path, max_bytes: int | None = None) -> None:
    """Download ``url`` to the file ``path``, with a progress bar on a terminal.

    Args:
        url: URL of the file.
        path: file to write.
        max_bytes: largest size (default: MAX_DOWNLOAD_BYTES).

    Raises:
        URLError: the server is too slow, or the file is too large or incomplete. urllib and http.client
            raise further errors.
    """
    from rich.markup import escape
    from rich.progress import wrap_file

    from ..printing.terminal import plain_console

    most = MAX_DOWNLOAD_BYTES.value if max_bytes is None else max_bytes
    console = plain_console(stderr=True)
    with urlopen(url, timeout=DOWNLOAD_TIMEOUT.value) as answer, path.open("wb") as out:
        size = _announced_size(answer)
        if size is not None and size > most:
            raise URLError(_too_large(f"{size:,} bytes", most))
        with wrap_file(
            cast(BinaryIO, _Checked(answer, most)),
            size or 0,
            description=escape(printable(path.name)),
            console=console,
            disable=not console.is_terminal,
        ) as source:
            while piece := source.read(_PIECE):
                out.write(piece)
        # urllib treats a dropped connection like the end of the file.
        if size is not None and out.tell() < size:
            raise URLError(f"the connection ended after {out.tell():,} of {size:,} bytes")


def _announced_size(answer: HTTPResponse) -> int | None:
    """Return the Content-Length, or None if it is missing, as for chunked content."""
    text = answer.headers.get("Content-Length")
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise URLError(f"the server sent an invalid Content-Length: {text!r:.40}")
    return int(text)


def _too_large(what: str, most: int) -> str:
    return f"the file has {what}; the limit is {most:,} ({MAX_DOWNLOAD_BYTES.advice})"


class _Checked:
    """The content of a response; raises URLError if it is too slow or too large."""

    def __init__(self, answer: HTTPResponse, most: int):
        self.answer, self.most, self.read_bytes = answer, most, 0
        self.measured_from, self.measured_bytes = time.monotonic(), 0

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *error: object) -> None:
        self.answer.close()

    def read(self, size: int) -> bytes:
        # read() would wait for all ``size`` bytes, however slowly they arrive.
        piece = self.answer.read1(size)
        self.read_bytes += len(piece)
        self.measured_bytes += len(piece)
        if self.read_bytes > self.most:
            raise URLError(_too_large(f"more than {self.most:,} bytes", self.most))
        seconds = time.monotonic() - self.measured_from
        if seconds > MEASURED_SECONDS:
            if self.measured_bytes < seconds * MIN_BYTES_PER_SECOND:
                raise URLError(f"only {self.measured_bytes:,} bytes arrived in {seconds:.0f} seconds")
            self.measured_from, self.measured_bytes = time.monotonic(), 0
        return piece
