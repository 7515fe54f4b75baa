"""The values of the controls, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_MODEL = "ImageReward-v1.0"


@dataclass(frozen=True)
class Settings:
    """The values of the controls.

    Attributes:
        enabled: score the images.
        model: name or path of the reward model.
        filter_low: leave images with scores below ``limit`` out of the gallery.
        limit: lowest score that stays in the gallery.
        sort: sort the gallery by score, best first.
        problem: message about an invalid limit, which turns filtering off; else empty.
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
    """Read the values of the controls, in the order of the page and the API."""
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
        given = "nothing" if value in (None, "") else repr(value)
        return None, f"cannot filter: the lower score limit must be a number such as 0.5, got {given}"
    return number, ""
