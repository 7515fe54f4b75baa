"""Tables and progress bars of rich that print names and prompts without markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import Task, TextColumn
from rich.table import Table
from rich.text import Text

from .escapes import printable


class _PlainConsole(Console):
    """A console that raises BrokenPipeError; rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def plain_console(stderr: bool = False) -> Console:
    """Return a console without markup such as "[red]" and emoji such as ":cat:"."""
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


class PlainTable(Table):
    """A table that prints texts without markup and with escaped control characters."""

    def __init__(self, *headers: str, title: str | None = None, caption: str | None = None):
        super().__init__(
            *map(printable, headers),
            title=None if title is None else printable(title),
            caption=None if caption is None else printable(caption),
        )

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        super().add_column(printable(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(printable, cells), **options)


def print_table(table: PlainTable) -> None:
    """Print a table to stdout."""
    plain_console().print(table)


class DescriptionColumn(TextColumn):
    """The description of a progress bar, without markup."""

    def __init__(self) -> None:
        super().__init__("{task.description}", markup=False)

    def render(self, task: Task) -> Text:
        return Text(printable(task.description), style=self.style, justify=self.justify)
