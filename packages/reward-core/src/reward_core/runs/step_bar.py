"""Progress bar of a training run, shown if stderr is a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Imported before a run seeds or restores random states: rich draws from Python's generator on its import.
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..printing.progress_columns import DescriptionColumn
from ..printing.terminal import plain_console
from .progress import LOG_SECONDS

logger = logging.getLogger(__name__)


@contextmanager
def step_bar(steps: int, done: int, shown: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that advances the bar by one step and shows a text next to it."""
    console = plain_console(stderr=True)
    pace = _Pace(steps, done)
    columns = [
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
        DescriptionColumn(),
    ]
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=steps, completed=done, pace="")

        def advance(text: str) -> None:
            pace.advance()
            bar.update(task, advance=1, description=text, pace=f"{pace.seconds:.3g} s/it")
            if shown and bar.disable and pace.due():
                logger.info("%s, %s", str(pace), text)  # pace changes before some handlers format it

        yield advance


class _Pace:
    """Seconds a step and seconds left, since the run began or resumed."""

    def __init__(self, steps: int, done: int):
        self.steps, self.done, self.first = steps, done, done
        self.started, self.logged = time.monotonic(), -LOG_SECONDS

    def advance(self) -> None:
        self.done += 1

    @property
    def seconds(self) -> float:
        """Mean seconds a step."""
        return (time.monotonic() - self.started) / (self.done - self.first)

    def due(self) -> bool:
        """Return whether to log: after the first step, then every LOG_SECONDS."""
        elapsed = time.monotonic() - self.started
        if elapsed - self.logged < LOG_SECONDS:
            return False
        self.logged = elapsed
        return True

    def __str__(self) -> str:
        left = self.seconds * (self.steps - self.done)
        return f"step {self.done}/{self.steps}, {self.seconds:.3g} s/it, {_duration(left)} left"


def _duration(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
