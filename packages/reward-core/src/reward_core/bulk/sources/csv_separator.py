"""CSV files whose columns are not separated by commas, recognized by their header."""

from __future__ import annotations

import csv
import re

SEPARATORS = (";", "\t", "|")
#: Excel's own first line, which names the separator.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?,*\s*', re.IGNORECASE)


def separator_error(header: str, wanted: tuple[str, ...]) -> str | None:
    """Return what is wrong with the separator, and what to do; None if nothing is.

    Args:
        header: the file's first line.
        wanted: the columns that it should have.
    """
    shown = header.strip("\r\n")
    if SEPARATOR_LINE.fullmatch(header):
        return f"its first line is {shown!r}, not the header; remove that line and separate columns by ','"
    columns = _split(header, ",")
    if all(name in columns for name in wanted):
        return None
    found = {separator: _split(header, separator) for separator in SEPARATORS}
    separator = max(found, key=lambda sep: (all(name in found[sep] for name in wanted), len(found[sep])))
    split = found[separator]
    if not (all(name in split for name in wanted) or (len(columns) == 1 and len(split) > 1)):
        return None  # commas are right, but not the names of the columns
    called = "tabs" if separator == "\t" else repr(separator)
    return (
        f"its columns are separated by {called}, not by ',' (its header is {shown!r:.300}). "
        f"Save it with commas: pandas.read_csv(path, sep={separator!r}).to_csv(new_path, index=False)"
    )


def _split(header: str, separator: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:
        return []
