"""The table of a model card: rewards before and after training, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from reward_core.printing.escapes import markdown_text

from ..config import TrainConfig
from ..records.samples import Samples
from .published_names import public_name

DRAWS = 10_000  # bootstrap samples over prompts


def reward_table(
    rows: list[dict[str, Any]],
    saved_step: int,
    prompts: int,
    config: TrainConfig,
    before: Samples | None,
    after: Samples | None,
) -> list[str]:
    """Return the lines of the section on rewards; none if the run has fewer than two validations.

    Args:
        rows: metrics of the run.
        saved_step: optimizer step of the saved weights.
        prompts: number of validation prompts.
        config: settings of the run.
        before: rewards of each image before training, for the intervals; None: a table without intervals.
        after: those of the saved weights.
    """
    validations = [row for row in rows if any(name.startswith("validation/") for name in row)]
    if len(validations) < 2:
        return []
    first = validations[0]
    last = next((row for row in validations if row["step"] == saved_step), validations[-1])
    lines = [
        "## Rewards",
        "",
        f"| mean over {prompts} prompts x {config.validation.seeds} seeds | before training "
        f"| after {last['step']} steps | change |",
        "|---|---|---|---|",
    ]
    intervals = False
    for key in first:
        if not key.startswith("validation/") or key not in last:
            continue
        name = key.split("/", 1)[1]
        cells = [f"{first[key]:.3f}", f"{last[key]:.3f}", f"{last[key] - first[key]:+z.3f}"]
        pair = _per_prompt(name, before, after)
        if pair is not None:
            intervals = True
            cells = [f"{cell} {_interval(values)}" for cell, values in zip(cells, (*pair, pair[1] - pair[0]))]
        lines.append(f"| {markdown_text(public_name(name))} | {' | '.join(cells)} |")
    lines.append("")
    if intervals:
        lines += ["Brackets are 95% intervals (bootstrap over prompts).", ""]
    return [
        *lines,
        "A reward that the model was trained on can rise without better images. Check the held-out "
        "rewards and the images too.",
        "",
    ]


def _per_prompt(
    name: str, before: Samples | None, after: Samples | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the mean reward of each prompt before and after, or None if it is not known for all images."""
    if before is None or after is None or before.prompts != after.prompts or len(before.prompts) < 2:
        return None
    means = []
    for samples in (before, after):
        values = samples.rewards.get(name)
        if values is None or not np.isfinite(values).all():
            return None
        means.append(np.array(values).reshape(len(samples.prompts), -1).mean(1))
    return means[0], means[1]


def _interval(values: np.ndarray) -> str:
    """Return the 95% interval of the mean of values (P,), from resampled prompts."""
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return f"[{low:.3f}, {high:.3f}]"
