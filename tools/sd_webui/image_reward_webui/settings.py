"""The controls' values, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_MODEL = "ImageReward-v1.0"


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    limit: lowest score that stays in the gallery.
    problem: one line about a value that cannot be used, else empty; filtering is then off.
    """

    enabled: bool = False
    model: str = DEFAULT_MODEL
    filter_low: bool = False
    limit: float = 0.0
    sort: bool = False
    problem: str = ""


def read_settings(
    enabled: object = False,
    model: object = DEFAULT_MODEL,
    filter_low: object = False,
    limit: object = 0,
    sort: object = False,
    *_: object,
) -> Settings:
    """The values of the controls, in their order on the page (and in the API's "args")."""
    name = str(model or "").strip().strip("\"'") or DEFAULT_MODEL
    number, problem = _number(limit)
    filters = bool(filter_low) and number is not None
    return Settings(
        bool(enabled), name, filters, number or 0.0, bool(sort), problem if bool(filter_low) else ""
    )


def _number(value: object) -> tuple[float | None, str]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        shown = "nothing" if value in (None, "") else repr(value)
        return None, f"nothing filtered out: the lower score limit must be a number such as 0.5, got {shown}"
    return number, ""
