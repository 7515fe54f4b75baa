"""Find a name among known ones, or suggest the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..errors import InputError


def match_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that equals ``name``, or else differs only in upper and lower case."""
    names = list(known)
    if name in names:
        return name
    return next((other for other in names if other.lower() == name.lower()), None)


def unknown_name(name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is neither known nor a path nor a hub repository."""
    by_lower = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(by_lower[match]) for match in close)}? " if close else ""
    return InputError(
        f"Cannot find the model: {name!r} is neither a known name nor a folder or file on this machine, nor "
        f"the id of a hub repository. {hint}Known names: {', '.join(by_lower.values())}."
    )
