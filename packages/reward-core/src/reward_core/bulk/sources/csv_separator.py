"""Recognize CSV files with another separator than the comma, by their header."""

from __future__ import annotations

import csv
import re

SEPARATORS = (";", "\t", "|")
#: The first line that Excel may write to name the separator.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?,*\s*', re.IGNORECASE)


def separator_error(header: str, required: tuple[str, ...]) -> str | None:
    """Return what is wrong with the separator and how to fix it; None if nothing is wrong.

    Args:
        header: the first line of the file.
        required: the columns that it must have.
    """
    shown = header.strip("\r\n")
    if SEPARATOR_LINE.fullmatch(header):
        return f"its first line is {shown!r}, not the header; remove that line and separate columns by ','"
    columns = _split(header, ",")
    if all(name in columns for name in required):
        return None
    splits = {separator: _split(header, separator) for separator in SEPARATORS}
    separator = max(splits, key=lambda sep: (all(name in splits[sep] for name in required), len(splits[sep])))
    split = splits[separator]
    if not (all(name in split for name in required) or (len(columns) == 1 and len(split) > 1)):
        return None  # the separator is a comma, but the columns have other names
    separator_name = "tabs" if separator == "\t" else repr(separator)
    return (
        f"its columns are separated by {separator_name}, not by ',' (its header is {shown!r:.300}). "
        f"Save it with commas: pandas.read_csv(path, sep={separator!r}).to_csv(new_path, index=False)"
    )


def _split(header: str, separator: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:
        return []
