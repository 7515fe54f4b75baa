"""Warnings that point at the user's line, not at one of this package."""

from __future__ import annotations

import sys
import warnings

# Packages whose lines say nothing to a user: ours, and those that call ours for the user.
_SKIPPED = frozenset(("reward_core", "refl", "reward_benchmark", "torch", "torchmetrics", "diffusers"))
_SKIPPED |= {"accelerate", "rich", "contextlib", "functools", "concurrent", "threading"}
SHOWN = 300  # characters of a prompt that a message quotes


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that names the line which called this package.

    By Python's default filter it appears once for each such line and text.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_skipped(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def quoted(text: str) -> str:
    """Return a text in quotes, its middle left out where it is long."""
    if len(text) <= SHOWN:
        return repr(text)
    half = SHOWN // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text):,} characters)"


def _is_skipped(module: str) -> bool:
    return module.partition(".")[0] in _SKIPPED
