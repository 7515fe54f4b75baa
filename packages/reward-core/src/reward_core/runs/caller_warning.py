"""Warnings that point to the user's code instead of this package."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Packages whose lines do not help a user: ours, and those that call ours.
_SKIPPED = frozenset(("reward_core", "refl", "reward_benchmark", "torch", "torchmetrics", "diffusers"))
_SKIPPED |= {"accelerate", "rich", "contextlib", "functools", "concurrent", "threading"}
SHOWN = 300  # number of characters of a prompt to quote in a message
_of_thread = threading.local()


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that points to the line that called this package.

    With Python's default filter it is printed once per line and text.
    """
    if (receive := getattr(_of_thread, "receive", None)) is not None:
        receive(message, category)
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_skipped(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def warnings_passed_to(receive: Callable[[str, type[Warning]], None]) -> Iterator[None]:
    """Pass the warnings of this thread to a function, because the caller's line is in another thread.

    Args:
        receive: function of the arguments of ``warn_caller``.
    """
    _of_thread.receive = receive
    try:
        yield
    finally:
        del _of_thread.receive


def quoted(text: str) -> str:
    """Return a text in quotes, without its middle part if it is long."""
    if len(text) <= SHOWN:
        return repr(text)
    half = SHOWN // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text):,} characters)"


def _is_skipped(module: str) -> bool:
    return module.partition(".")[0] in _SKIPPED
