"""Tables of rich that print names and prompts without markup."""

from __future__ import annotations

import os
import textwrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from .escapes import printable

MIN_WRAPPED = 20  # narrowest width of a column whose cells may wrap


class _PlainConsole(Console):
    """A console that raises BrokenPipeError; rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def plain_console(stderr: bool = False) -> Console:
    """Return a console without markup such as "[red]" and emoji such as ":cat:"."""
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


class PlainTable(Table):
    """A table that prints texts without markup and with escaped control characters.

    Cells stay on one line, except in columns added with ``wrap=True``.
    """

    def __init__(self, *headers: str, title: str | None = None, caption: str | None = None):
        self.cells: list[list[str]] = []  # headers, then rows
        super().__init__(
            title=None if title is None else printable(title),
            caption=None if caption is None else printable(caption),
        )
        self.cells.append([])
        for header in headers:
            self.add_column(header)

    def add_column(self, header: Any = "", *args: Any, wrap: bool = False, **options: Any) -> None:
        self.cells[0].append(printable(header))
        super().add_column(printable(header), *args, **{"overflow": "fold", "no_wrap": not wrap, **options})

    def add_row(self, *cells: Any, **options: Any) -> None:
        texts = [printable(cell) for cell in cells]
        self.cells.append(texts)
        super().add_row(*texts, **options)

    def least_width(self) -> int:
        """Return the width that the table needs so that no cell is folded."""
        needed = 1
        for column, texts in zip(self.columns, zip(*self.cells)):
            widest = max(map(cell_len, texts))
            needed += 3 + (widest if column.no_wrap else min(widest, MIN_WRAPPED))
        return needed

    def as_list(self, width: int) -> str:
        """Return the rows as a list: a line for the first cell, and an indented line for each other cell.

        Lines longer than ``width`` are wrapped between words if their column may wrap; paths stay whole.
        """
        (first, *headers), *rows = self.cells
        names = [f"  {header}: " for header in headers]
        margin = max(map(len, names), default=0)
        lines = [_wrapped(str(self.title), width)] if self.title else []
        for cell, *others in rows:
            lines.append(f"{first}: {cell}" if first and any(others) else cell)
            for name, text, column in zip(names, others, self.columns[1:]):
                line = name.ljust(margin) + text
                if text:
                    lines.append(line if column.no_wrap else _wrapped(line, width))
        if self.caption:
            lines.append(_wrapped(str(self.caption), width))
        return "\n".join(lines)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(
        line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def print_table(table: PlainTable) -> None:
    """Print a table to stdout, or a list of its rows if the terminal is too narrow.

    A file or a pipe has no width, so it gets the table, unless $COLUMNS sets one.
    """
    console = plain_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, table.least_width())
    if table.least_width() <= console.width:
        console.print(table)
    else:
        console.print(table.as_list(console.width), soft_wrap=True)
