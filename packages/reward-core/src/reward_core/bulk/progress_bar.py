"""The bar of a bulk run, on stderr while that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .run import OnProgress


def bar_shown(quiet: bool = False) -> bool:
    """Whether there is a bar: on a terminal, unless it is not wanted."""
    from rich.console import Console

    return not quiet and Console(stderr=True).is_terminal


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[OnProgress]:
    """Gives what ``score_to_file`` takes as on_progress: rows done, images/s, time left, failures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("scoring"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]}"),
    )
    bar = Progress(*columns, console=console, disable=not bar_shown(quiet), transient=True)
    task = bar.add_task("", total=None, rate="", failures="")
    resumed: list[int] = []

    def advance(rows: int, done: int, failed: int) -> None:
        if not resumed:  # what an earlier run did is no speed of this one
            resumed.append(done)
            bar.reset(task, total=rows, completed=done)
            bar.start()  # not before: input and model may show bars of their own while they are loaded
        shown = bar.tasks[0]
        rate = (done - resumed[0]) / shown.elapsed if shown.elapsed else 0.0
        failures = f"{failed:,} failed" if failed else ""
        bar.update(task, completed=done, rate=f"{rate:,.1f} images/s", failures=failures)

    try:
        yield advance
    finally:
        if resumed:
            bar.stop()
