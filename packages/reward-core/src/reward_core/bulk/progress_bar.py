"""The progress bar of a bulk run, shown if stderr is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .run import OnProgress


def bar_shown(quiet: bool = False) -> bool:
    """Return whether a bar is shown: stderr is a terminal and ``quiet`` is off."""
    from rich.console import Console

    return not quiet and Console(stderr=True).is_terminal


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[OnProgress]:
    """Show rows done, images/s, time left and failures; yield the ``on_progress`` of ``score_to_file``."""
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
        if not resumed:  # rows of an earlier run do not count for the speed of this one
            resumed.append(done)
            bar.reset(task, total=rows, completed=done)
            bar.start()  # not earlier, because loading the input and the model may show other bars
        elapsed = bar.tasks[0].elapsed
        rate = (done - resumed[0]) / elapsed if elapsed else 0.0
        failures = f"{failed:,} failed" if failed else ""
        bar.update(task, completed=done, rate=f"{rate:,.1f} images/s", failures=failures)

    try:
        yield advance
    finally:
        if resumed:
            bar.stop()
