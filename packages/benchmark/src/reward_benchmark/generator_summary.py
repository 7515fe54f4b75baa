"""Compute Table 1 from rows of scores: which generator each scorer prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from . import paper
from .metrics import Resamples, generator_table, spearman
from .results import Agreement, GeneratorsResult, GeneratorsSummary, SpearmanComparison, published_value
from .suites import Part

Values = Sequence[Sequence["float | None"]]  # per group, the scores of its images
ByGenerator = Mapping[str, Values]  # per generator, the scores of each prompt


def generators_summary(
    part: Part, values: Mapping[str, Values], failed: dict[str, str], agreement: tuple[Agreement, ...]
) -> GeneratorsSummary:
    """Return the summary of a part that ranks generators.

    Args:
        part: the part.
        values: scorer -> per group of the part, the scores of its images.
        failed: image -> reason why it has no score.
        agreement: correlations between scorers within a group.

    Raises:
        ValueError: no prompt has a scored image of every generator.
    """
    names = part.generators
    by_scorer = {scorer: _by_generator(part, scores) for scorer, scores in values.items()}
    resamples = Resamples(len(next(iter(next(iter(by_scorer.values())).values()))))
    reference = _reference(part, by_scorer, resamples)
    is_table1 = part.name == "table1"
    wins = {name: row.wins for name, row in paper.TABLE1.items()}
    return GeneratorsSummary(
        name=part.name,
        title=part.title,
        revision=part.revision,
        prompts=len({group.id for group in part.groups}),
        images=part.images,
        failed=failed,
        agreement=agreement,
        scorers={
            scorer: _result(scorer, scores, reference, resamples, is_table1)
            for scorer, scores in by_scorer.items()
        },
        reference={name: reference.get(name) for name in names},
        reference_wins={name: wins.get(name) for name in names} if is_table1 else None,
        judge=part.reference_scorer or "people",
        titles={name: part.titles.get(name, name) for name in names},
        comparisons=_comparisons(by_scorer, reference, resamples),
    )


def _by_generator(part: Part, values: Values) -> ByGenerator:
    return {
        name: [values[i] for i, group in enumerate(part.groups) if group.generator == name]
        for name in part.generators
    }


def _reference(part: Part, by_scorer: Mapping[str, ByGenerator], resamples: Resamples) -> dict[str, float]:
    """Return generator -> rank, for people or for the part's reference scorer."""
    if part.reference is not None:
        return part.reference
    assert part.reference_scorer is not None  # a part has one of the two
    table = generator_table(by_scorer[part.reference_scorer], {}, resamples)
    return {name: row.rank for name, row in table.rows.items()}


def _result(
    scorer: str, scores: ByGenerator, reference: dict[str, float], resamples: Resamples, is_table1: bool
) -> GeneratorsResult:
    table = generator_table(scores, reference, resamples)
    if not is_table1:
        return GeneratorsResult(table)
    published = {}
    for name, row in table.rows.items():
        known = paper.TABLE1.get(name)
        if known and scorer in known.scores:
            published[name] = published_value(
                row.mean.value, known.scores[scorer], paper.TABLE1_TOLERANCE, "mean score"
            )
    return GeneratorsResult(table, published, paper.TABLE1_SPEARMAN.get(scorer))


def _comparisons(
    by_scorer: Mapping[str, ByGenerator], reference: dict[str, float], resamples: Resamples
) -> tuple[SpearmanComparison, ...]:
    """Compare the scorers' Spearman correlations with the reference."""
    known = [name for name in next(iter(by_scorer.values())) if name in reference]
    if len(known) < 3:
        return ()
    target = -np.array([reference[name] for name in known])
    means = {
        scorer: np.array([[_mean(values) for values in scores[name]] for name in known]).T
        for scorer, scores in by_scorer.items()
    }  # scorer -> (P, G)
    comparisons = []
    for a, b in combinations(means, 2):
        complete = (np.isfinite(means[a]) & np.isfinite(means[b])).all(1)
        if not complete.any():
            continue
        pair = means[a][complete], means[b][complete]

        def difference(
            weights: np.ndarray,
            pair: tuple[np.ndarray, np.ndarray] = pair,
            complete: np.ndarray = complete,
        ) -> np.ndarray:
            drawn = weights[:, complete]
            with np.errstate(invalid="ignore", divide="ignore"):
                one, two = (drawn @ scores / drawn.sum(1, keepdims=True) for scores in pair)
            return spearman(one, target) - spearman(two, target)

        interval = resamples.statistic(difference)
        if np.isfinite(interval.value):
            comparisons.append(SpearmanComparison(a, b, interval))
    return tuple(comparisons)


def _mean(values: Sequence[float | None]) -> float:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else float("nan")
