"""Limits on the memory of text files that are read completely.

A value takes far more memory than its bytes in the file: an empty list takes 20 times as much, a row of two
cells 80 times.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TextIO

from .foreign_bytes import open_regular
from .limits import MB, Limit

# Values of a file that is read completely; a list, an object and a row count as 8 values each. They take
# about 2 GB of memory in the worst case. The 584 thousand pairs of Pick-a-Pic have about 20 million.
MAX_VALUES = Limit("MAX_VALUES", 2**25)
# Bytes of a table of rankings or scores. The million pairs of Pick-a-Pic v2 have about 670 MB as CSV.
MAX_TABLE_BYTES = Limit("MAX_TABLE_BYTES", 1024 * MB)
# Bytes of a line of a table. Prompts are read up to a million characters.
MAX_LINE_BYTES = Limit("MAX_LINE_BYTES", 16 * MB)


class TableBudget:
    """The number of values and bytes that may still be read from a table.

    All methods raise ValueError if a limit is exceeded.
    """

    def __init__(self) -> None:
        self.values, self.bytes = MAX_VALUES.value, MAX_TABLE_BYTES.value

    def take_json(self, text: str) -> None:
        """Count a JSON text, including commas and brackets in strings."""
        self.take(text.count(",") + 8 * (text.count("[") + text.count("{")) + 1, len(text))

    def take_line(self, line: str) -> None:
        """Count a line of a CSV or TSV table."""
        self.take(8 + line.count(",") + line.count("\t"), len(line))

    def take(self, values: int, size: int) -> None:
        """Count values and their bytes (or characters) in the file."""
        self.values -= values
        self.bytes -= size
        if self.values < 0:
            raise ValueError(f"it has more than {MAX_VALUES.value:,} values ({MAX_VALUES.advice})")
        if self.bytes < 0:
            raise ValueError(f"it has more than {MAX_TABLE_BYTES.value:,} bytes ({MAX_TABLE_BYTES.advice})")


def open_table(path: str | os.PathLike[str], encoding: str = "utf-8", newline: str | None = None) -> TextIO:
    """Open a text file of at most MAX_TABLE_BYTES.

    Raises:
        NotReadableError, OSError: as in `open_regular`.
    """
    return io.TextIOWrapper(open_regular(path, MAX_TABLE_BYTES), encoding=encoding, newline=newline)


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text file with their line ends.

    Raises:
        ValueError: a line is longer than MAX_LINE_BYTES.
    """
    most = MAX_LINE_BYTES.value
    while line := file.readline(most + 1):
        if len(line) > most:
            raise ValueError(too_long())
        yield line


def table_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a CSV file that is read completely.

    Raises:
        ValueError: the file exceeds a limit.
    """
    budget = TableBudget()
    for line in bounded_lines(file):
        budget.take_line(line)
        yield line


def too_long() -> str:
    """Return the error message for a line that is too long."""
    return f"the line is longer than {MAX_LINE_BYTES.value:,} bytes ({MAX_LINE_BYTES.advice})"
