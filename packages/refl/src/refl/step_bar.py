"""The bar of a run, on stderr while that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def step_bar(accelerator: Accelerator, steps: int, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Gives a function that takes the metrics of each finished step and shows its rewards."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from reward_core.printing.terminal import DescriptionColumn, plain_console

    console = plain_console(stderr=True)
    described = DescriptionColumn()
    columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), described]
    hidden = not (accelerator.is_main_process and console.is_terminal)
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task("", total=steps, completed=done)

        def advance(row: dict[str, float]) -> None:
            rewards = {
                k.split("/")[1]: v for k, v in row.items() if k.startswith("reward/") and k.count("/") == 1
            }
            bar.update(task, advance=1, description=", ".join(f"{k} {v:.3f}" for k, v in rewards.items()))

        yield advance
