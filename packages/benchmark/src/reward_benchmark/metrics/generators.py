"""Table 1: how a scorer ranks generators, and how well that agrees with people.

Letters in shape comments: P prompts, G generators, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_core.rankings.correlation import average_ranks, kendall, spearman

from ..json_record import JsonRecord, key
from .bootstrap import Interval, Resamples


@dataclass(frozen=True)
class GeneratorRow(JsonRecord):
    """A generator's row of Table 1.

    Attributes:
        mean: mean score: mean over prompts of the mean over images, as in the authors' script.
        rank: rank by mean score, 1 is best.
        rank_low: lower end of the rank's 95% interval.
        rank_high: upper end of the rank's 95% interval.
        wins: number of (prompt, other generator) pairs in which this generator's mean is higher.
        images: number of scored images.
    """

    mean: Interval
    rank: float
    rank_low: float | None
    rank_high: float | None
    wins: int
    images: int = field(metadata=key("pictures"))


@dataclass(frozen=True)
class GeneratorTable(JsonRecord):
    """Table 1 of one scorer.

    Attributes:
        rows: generator -> row.
        spearman: correlation with the reference ranks; None with fewer than three ranked generators.
        kendall: likewise.
        prompts: number of prompts with a scored image of every generator.
        missing: number of images without a score.
    """

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
    """Compute Table 1 for one scorer.

    Args:
        scores: generator -> per prompt, the scores of its images; None for an image without a score. If any
            generator has no scored image of a prompt, the prompt is left out for all, so that means stay
            comparable.
        reference: generator -> rank for people (or an oracle), 1 is best. Generators without a rank are
            left out of the correlations.
        resamples: bootstrap resamples over the prompts; None: new ones.

    Raises:
        ValueError: no generators, different numbers of prompts, a score that is not finite, or no prompt
            with a scored image of every generator.
    """
    names = list(scores)
    lengths = {len(values_of_prompts) for values_of_prompts in scores.values()}
    if len(lengths) != 1:
        raise ValueError(
            "Cannot compare the generators: they must have the same number of prompts, got "
            f"{sorted(lengths)}."
        )
    for name, values_of_prompts in scores.items():
        for i, values in enumerate(values_of_prompts):
            if bad := [v for v in values if v is not None and not np.isfinite(v)]:
                raise ValueError(
                    f"Cannot compare the generators: the score {bad[0]} of {name} for prompt {i} is not a "
                    "finite number."
                )
    means = np.array([[_mean(values) for values in scores[name]] for name in names]).T  # (P, G)
    complete = np.isfinite(means).all(1)
    if not complete.any():
        raise ValueError("Cannot compare the generators: no prompt has a scored image of every generator.")
    resamples = resamples or Resamples(len(means))
    used, filled = complete.astype(float), np.where(complete[:, None], means, 0.0)

    def table_means(weights: np.ndarray) -> np.ndarray:
        """Map weights (R, P) to mean scores (R, G)."""
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
        interval = resamples.statistic(lambda weights: measure(table_means(weights)[:, known], target))
        return interval if np.isfinite(interval.value) else None

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
