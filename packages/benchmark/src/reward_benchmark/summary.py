"""Compute the tables of a run from rows of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from . import paper
from .generator_summary import Values, generators_summary
from .metrics import Resamples, compare_scorers, preference_table, spearman
from .results import (
    Agreement,
    PartSummary,
    PreferenceComparison,
    PreferenceResult,
    PreferenceSummary,
    PublishedPreference,
    published_value,
)
from .score_store import Key, Score
from .suites import Group, Part


def summarize(
    parts: Sequence[Part], scorers: Sequence[str], rows: Mapping[Key, Score]
) -> tuple[PartSummary, ...]:
    """Return the summary of each part, with published values for comparison.

    Args:
        parts: the parts of a suite.
        scorers: names of the scorers.
        rows: scores by (part, scorer, image).

    Raises:
        ValueError: a part has too few scored images.
    """
    return tuple(_part(part, scorers, rows) for part in parts)


def _part(part: Part, scorers: Sequence[str], rows: Mapping[Key, Score]) -> PartSummary:
    values = {name: _values(part, name, rows) for name in scorers}
    failed = _failed(part, rows)
    if part.kind == "preference":
        return _preference(part, values, failed)
    return generators_summary(part, values, failed, _agreement(values))


def _values(part: Part, scorer: str, rows: Mapping[Key, Score]) -> Values:
    none = Score(None)
    return [
        [rows.get((part.name, scorer, name), none).score for name in group.names] for group in part.groups
    ]


def _failed(part: Part, rows: Mapping[Key, Score]) -> dict[str, str]:
    """Return image -> reason why it has no score."""
    errors = {
        image: row.error
        for (name, _, image), row in rows.items()
        if name == part.name and row.error is not None
    }
    image_names = {name for group in part.groups for name in group.names}
    return {image: error for image, error in sorted(errors.items()) if image in image_names}


def _preference(part: Part, values: Mapping[str, Values], failed: dict[str, str]) -> PreferenceSummary:
    ranks = [_ranks(group) for group in part.groups]
    resamples = Resamples(len(ranks))
    results = {}
    for name, scores in values.items():
        result = PreferenceResult(preference_table(ranks, scores, resamples))
        if part.name == "table3" and name in paper.TABLE3:
            result = _with_published(result, paper.TABLE3[name])
        results[name] = result
    comparisons = (
        PreferenceComparison.of(a, b, compare_scorers(ranks, values[a], values[b], resamples))
        for a, b in combinations(values, 2)
    )
    return PreferenceSummary(
        name=part.name,
        title=part.title,
        revision=part.revision,
        prompts=len({group.id for group in part.groups}),
        images=part.images,
        failed=failed,
        agreement=_agreement(values),
        scorers=results,
        comparisons=tuple(comparisons),
    )


def _ranks(group: Group) -> tuple[int, ...]:
    assert group.ranks is not None  # a group of a preference part has ranks
    return group.ranks


def _with_published(result: PreferenceResult, row: paper.PublishedPreference) -> PreferenceResult:
    table, tolerance = result.table, paper.TABLE3_TOLERANCE
    pooled, per_prompt = table.pooled_accuracy.value, table.per_prompt_accuracy.value
    published = PublishedPreference(
        pooled_accuracy=published_value(pooled, row.accuracy, tolerance, "the script's pooled pairs"),
        per_prompt_accuracy=published_value(per_prompt, row.accuracy, tolerance, "as the caption says"),
        # From other prompts: shown for comparison, without a verdict.
        recall=row.recall,
        filter=row.filter,
    )
    return PreferenceResult(table, published)


def _agreement(values: Mapping[str, Values]) -> tuple[Agreement, ...]:
    """Return Spearman's correlation between scorers, averaged over groups.

    Groups need at least 3 images with both scores.
    """
    agreement = []
    for a, b in combinations(values, 2):
        correlations = []
        for one, two in zip(values[a], values[b]):
            both = [(x, y) for x, y in zip(one, two) if x is not None and y is not None]
            if len(both) >= 3:
                correlations.append(float(spearman(*np.array(both).T)))
        correlations = [v for v in correlations if np.isfinite(v)]
        if correlations:
            agreement.append(Agreement(a, b, float(np.mean(correlations)), len(correlations)))
    return tuple(agreement)
