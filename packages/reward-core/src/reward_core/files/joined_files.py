"""Several files read as one, such as a tar that is published in pieces."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO, cast


class JoinedFiles(io.RawIOBase):
    """A range of bytes of several files, one after the other, as a file that can be read and sought.

    Nothing is copied: each read opens the file that has the bytes.

    Args:
        paths: the files in order.
        start: first byte of the range.
        size: number of bytes; None for all that follow.

    Attributes:
        size: number of bytes of the range.
    """

    def __init__(self, paths: Sequence[Path], start: int = 0, size: int | None = None) -> None:
        super().__init__()
        self.paths, self.start = list(paths), start
        self.ends = list(accumulate(path.stat().st_size for path in self.paths))
        available = max(0, (self.ends[-1] if self.ends else 0) - start)
        self.size = available if size is None else min(size, available)
        self._position = 0
        self._index, self._file = -1, cast("BinaryIO | None", None)

    def range(self, start: int, size: int) -> BinaryIO:
        """Return a range of bytes of this file as a buffered file of its own."""
        return io.BufferedReader(JoinedFiles(self.paths, self.start + start, size), 1 << 20)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"a position before the start: {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), self.size - self._position)
        if wanted <= 0:
            return 0
        position = self.start + self._position
        index = bisect_right(self.ends, position)
        first = self.ends[index - 1] if index else 0
        file = self._opened(index)
        file.seek(position - first)
        count = file.readinto(memoryview(buffer)[: min(wanted, self.ends[index] - position)])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"'{self.paths[index]}' became shorter while it was read")
        self._position += count
        return count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _opened(self, index: int) -> BinaryIO:
        if index != self._index:
            if self._file is not None:
                self._file.close()
            self._index, self._file = index, self.paths[index].open("rb")
        assert self._file is not None
        return self._file


def pieces_of(first: Path) -> list[Path]:
    """Return all pieces that `split` wrote, in order: NAMEaa, NAMEab, ... or NAME00, NAME01, ...

    Args:
        first: any of the pieces.

    Raises:
        FileNotFoundError: a piece between the first and the last one is missing; the message is its name.
    """
    match = re.fullmatch(r"(.*?)([a-z]{2,4}|[0-9]{1,5})", first.name)
    if match is None:
        return [first]
    stem, suffix = match[1], match[2]
    form = rf"[{'0-9' if suffix.isdigit() else 'a-z'}]{{{len(suffix)}}}"
    pattern = re.compile(re.escape(stem) + form)
    paths = sorted(path for path in first.parent.iterdir() if pattern.fullmatch(path.name))
    for path, following in pairwise(paths):
        expected = stem + _successor(path.name.removeprefix(stem))
        if following.name != expected:
            raise FileNotFoundError(expected)
    return paths


def _successor(suffix: str) -> str:
    """Return the suffix that follows, such as "ba" for "az" and "10" for "09"."""
    symbols = "0123456789" if suffix.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    number = 0
    for symbol in suffix:
        number = number * len(symbols) + symbols.index(symbol)
    number += 1
    digits = ""
    for _ in suffix:
        number, digit = divmod(number, len(symbols))
        digits = symbols[digit] + digits
    return digits
