"""Progress bar of a training run, shown if stderr is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def step_bar(steps: int, done: int, shown: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that advances the bar by one step and shows a text next to it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..printing.terminal import DescriptionColumn, plain_console

    console = plain_console(stderr=True)
    described = DescriptionColumn()
    columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), described]
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=steps, completed=done)
        yield lambda text: bar.update(task, advance=1, description=text)
