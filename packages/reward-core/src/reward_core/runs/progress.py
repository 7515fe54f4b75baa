"""Progress bars on stderr, shown if stderr is a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

LOG_SECONDS = 30.0  # between two log lines of progress

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Generator[T, None, None]:
    """Yield the items with a progress bar."""
    with bar() as progress_bar:
        yield from progress_bar.track(items, total=total, description=what)


def logged_progress(
    items: Iterable[T], what: str, total: int, logger: logging.Logger, shown: bool = True
) -> Generator[T, None, None]:
    """Yield the items with a progress bar; off a terminal, log the count first and every LOG_SECONDS.

    Args:
        shown: False for all ranks but one.
    """
    with bar(shown) as progress_bar:
        logging_needed, last = shown and progress_bar.disable, 0.0
        for number, item in enumerate(progress_bar.track(items, total=total, description=what), start=1):
            if logging_needed and (number == 1 or time.monotonic() - last > LOG_SECONDS):
                last = time.monotonic()
                logger.info("%s %d/%d", what, number, total)
            yield item


def unpacking(archive: str) -> Callable[[list[T]], Generator[T, None, None]]:
    """Return a progress bar over the members of an archive, for ``unzip``."""
    return lambda members: progress(members, f"unpacking {archive}", len(members))


def bar(wanted: bool = True):
    """Return a rich Progress with the count and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from ..printing.progress_columns import DescriptionColumn
    from ..printing.terminal import plain_console

    console = plain_console(stderr=True)
    return Progress(
        DescriptionColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (wanted and console.is_terminal),
        transient=True,
    )
