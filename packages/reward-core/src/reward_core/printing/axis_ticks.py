"""Round numbers for the axes of charts."""

from __future__ import annotations

import math


def axis_ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers between low and high, low < high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(factor for factor in (1, 2, 2.5, 5) if (high - low) / (step * factor) >= 4 or factor == 1)
    digits = 2 - math.floor(math.log10(step))
    return [round(n * step, digits) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
