"""The bar of a run, on stderr while that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def step_bar(steps: int, done: int, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Gives a function that takes each finished step's metrics and shows loss, accuracy and images/s."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..printing.terminal import DescriptionColumn, plain_console

    console = plain_console(stderr=True)
    described = DescriptionColumn()
    columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), described]
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=steps, completed=done)

        def advance(row: dict[str, float]) -> None:
            message = (
                f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%}, {row['images_per_s']:.1f} images/s"
            )
            bar.update(task, advance=1, description=message)

        yield advance
