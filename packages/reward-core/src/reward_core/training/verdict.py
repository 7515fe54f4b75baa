"""Compare the kept weights of a run with the model that it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def no_improvement(rows: Sequence[Mapping[str, Any]], best_step: int) -> str:
    """Return a sentence if the kept weights are not better than the initial ones, else "".

    Better means: a lower validation loss and a higher validation accuracy than before the first step.

    Args:
        rows: the rows of metrics.jsonl.
        best_step: step of the kept weights.
    """
    accuracies = {row["step"]: row["validation/accuracy"] for row in rows if "validation/accuracy" in row}
    if 0 not in accuracies or best_step not in accuracies:
        return ""
    start, kept = accuracies[0], accuracies[best_step]
    if best_step == 0:
        reason = "no step had a lower validation loss, so its weights were kept"
    elif kept <= start:
        reason = (
            f"the weights of step {best_step:,} order {kept:.1%} of the validation pairs correctly, the "
            f"initial weights {start:.1%}"
        )
    else:
        return ""
    return f"Not better than the model it started from: {reason}."
