"""Columns of rich's progress bars that print names without markup.

They are separate from the tables of ``terminal``, because rich.progress takes 20 ms to import.
"""

from __future__ import annotations

from rich.progress import Task, TextColumn
from rich.text import Text

from .escapes import printable


class DescriptionColumn(TextColumn):
    """The description of a progress bar, without markup."""

    def __init__(self) -> None:
        super().__init__("{task.description}", markup=False)

    def render(self, task: Task) -> Text:
        return Text(printable(task.description), style=self.style, justify=self.justify)
