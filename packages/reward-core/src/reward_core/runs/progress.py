"""Progress bars on stderr, shown if stderr is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Generator[T, None, None]:
    """Yield the items with a progress bar."""
    with bar() as progress_bar:
        yield from progress_bar.track(items, total=total, description=what)


def unpacking(archive: str) -> Callable[[list[T]], Generator[T, None, None]]:
    """Return a progress bar over the members of an archive, for ``unzip``."""
    return lambda members: progress(members, f"unpacking {archive}", len(members))


def bar(wanted: bool = True):
    """Return a rich Progress with the count and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from ..printing.terminal import DescriptionColumn, plain_console

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
