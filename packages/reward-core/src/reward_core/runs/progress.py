"""Progress bars on stderr, while that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int) -> Generator[T, None, None]:
    """The items, with a bar that tells the time left."""
    with bar() as shown:
        yield from shown.track(items, total=total, description=what)


def unpacking(archive: str) -> Callable[[list[T]], Generator[T, None, None]]:
    """Return what ``unzip`` takes as ``track``: a bar over the members of an archive."""
    return lambda members: progress(members, f"unpacking {archive}", len(members))


def bar(wanted: bool = True):
    """A rich Progress with count and time left."""
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
