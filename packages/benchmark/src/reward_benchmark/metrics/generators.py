"""Which generator a scorer puts first, and how that agrees with people: Table 1.

Letters in shape comments: P prompts, G generators, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..json_record import JsonRecord, key
from .bootstrap import Interval, Resamples
from .correlation import average_ranks, kendall, spearman


@dataclass(frozen=True)
class GeneratorRow(JsonRecord):
    """A generator's row of Table 1.

    Attributes:
        mean: over prompts of the mean over images, as in the authors' script.
        rank: 1 is best; rank_low, rank_high: its 95% interval.
        wins: (prompt, other generator) pairs in which this one's mean is higher.
        images: how many were scored.
    """

    mean: Interval
    rank: float
    rank_low: float | None
    rank_high: float | None
    wins: int
    images: int = field(metadata=key("pictures"))


@dataclass(frozen=True)
class GeneratorTable(JsonRecord):
    """One scorer's Table 1. spearman, kendall: with the reference ranks, over the generators that have one;
    None where fewer than three have one."""

    rows: dict[str, GeneratorRow] = field(metadata=key("generators"))
    spearman: Interval | None
    kendall: Interval | None
    prompts: int
    missing: int


def generator_table(
    scores: Mapping[str, Sequence[Sequence[float | None]]],
    reference: dict[str, float],
    resamples: Resamples | None = None,
) -> GeneratorTable:
    """All of Table 1 for one scorer.

    Args:
        scores: generator -> for each prompt the scores of its images, None where there is none. A prompt
            of which some generator has no scored image is left out for all, so means stay comparable.
        reference: generator -> rank for people (or an oracle), 1 is best; generators without one are
            ranked, but have no part in the correlations.

    Raises:
        ValueError: no generator, numbers of prompts that differ, a score that is NaN or infinite, or no
            prompt scored for all.
    """
    names = list(scores)
    lengths = {len(values_of_prompts) for values_of_prompts in scores.values()}
    if len(lengths) != 1:
        raise ValueError(f"each generator needs the same prompts, got {sorted(lengths)} of them")
    for name, values_of_prompts in scores.items():
        for i, values in enumerate(values_of_prompts):
            if bad := [v for v in values if v is not None and not np.isfinite(v)]:
                raise ValueError(f"{name}, prompt {i}: the score {bad[0]} is not a finite number")
    means = np.array([[_mean(values) for values in scores[name]] for name in names]).T  # (P, G)
    complete = np.isfinite(means).all(1)
    if not complete.any():
        raise ValueError("no prompt has a scored image of every generator")
    resamples = resamples or Resamples(len(means))
    used, filled = complete.astype(float), np.where(complete[:, None], means, 0.0)

    def table_means(weights: np.ndarray) -> np.ndarray:
        """Weights (R, P) -> mean scores (R, G)."""
        with np.errstate(invalid="ignore"):
            return (weights @ filled) / (weights @ used)[:, None]

    drawn = average_ranks(table_means(resamples.counts))  # (R, G)
    overall = table_means(np.ones((1, len(means))))[0]
    ranks = average_ranks(overall)
    has_several_prompts = int(complete.sum()) > 1
    known = [i for i, name in enumerate(names) if name in reference]
    target = -np.array([reference[names[i]] for i in known], float)

    def correlation(measure) -> Interval | None:
        if len(known) < 3:
            return None
        found = resamples.statistic(lambda weights: measure(table_means(weights)[:, known], target))
        return found if np.isfinite(found.value) else None

    rows = {}
    for i, name in enumerate(names):
        low, high = np.quantile(drawn[:, i], [0.025, 0.975]) if has_several_prompts else (None, None)
        higher = means[complete, i][:, None] > means[complete]
        rows[name] = GeneratorRow(
            mean=resamples.ratio(filled[:, i], used),
            rank=float(ranks[i]),
            rank_low=None if low is None else float(low),
            rank_high=None if high is None else float(high),
            wins=int(higher.sum()),
            images=sum(v is not None for values in scores[name] for v in values),
        )
    missing = sum(
        v is None for values_of_prompts in scores.values() for values in values_of_prompts for v in values
    )
    return GeneratorTable(rows, correlation(spearman), correlation(kendall), int(complete.sum()), missing)


def _mean(values: Sequence[float | None]) -> float:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else float("nan")
