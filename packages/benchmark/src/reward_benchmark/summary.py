"""Rows of scores -> the tables of a run, as one JSON document that every report is made from."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from reward_core.runs.cpus import usable_cpus

from . import __version__, paper
from .metrics import Resamples, compare_scorers, generator_table, preference_table, spearman
from .score_store import Key, Score
from .suites import Group, Part


def summarize(
    parts: Sequence[Part], scorers: Sequence[str], rows: Mapping[Key, Score]
) -> list[dict[str, Any]]:
    """For each part: name, title, kind, revision, prompts, images, a table per scorer, published values
    beside it, paired comparisons, agreement between scorers, and the images that have no score.

    Raises:
        ValueError: a part of which nothing could be scored.
    """
    return [_part(part, scorers, rows) for part in parts]


def environment(device: str | None, precision: str) -> dict[str, str]:
    """What the numbers were made with."""
    import PIL
    import torch
    import transformers

    import reward_core

    return {
        "device": _device_name(device),
        "precision": precision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(usable_cpus()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "Pillow": PIL.__version__,
        "numpy": np.__version__,
        "reward_core": reward_core.__version__,
        "reward_benchmark": __version__,
    }


def _device_name(device: str | None) -> str:
    import torch

    from reward_core.scoring.device import default_device

    names = (device or default_device()).split(",")
    return ", ".join(f"{n} ({torch.cuda.get_device_name(n)})" if n.startswith("cuda") else n for n in names)


def _part(part: Part, scorers: Sequence[str], rows: Mapping[Key, Score]) -> dict[str, Any]:
    scores = {name: _scores(part, name, rows) for name in scorers}
    failed = {}
    for (part_name, _, image), row in rows.items():
        if part_name == part.name and row.error is not None:
            failed[image] = row.error
    image_names = {name for group in part.groups for name in group.names}
    summary: dict[str, Any] = {
        "name": part.name,
        "title": part.title,
        "kind": part.kind,
        "revision": part.revision,
        "prompts": len({group.id for group in part.groups}),
        "pictures": part.images,
        "failed": {image: error for image, error in sorted(failed.items()) if image in image_names},
        "agreement": _agreement(scores),
    }
    if part.kind == "preference":
        return {**summary, **_preference(part, scores)}
    return {**summary, **_generators(part, scores)}


def _scores(part: Part, scorer: str, rows: Mapping[Key, Score]) -> list[list[float | None]]:
    none = Score(None)
    return [
        [rows.get((part.name, scorer, name), none).score for name in group.names] for group in part.groups
    ]


def _preference(part: Part, scores: dict[str, list]) -> dict[str, Any]:
    ranks = [_ranks(group) for group in part.groups]
    resamples = Resamples(len(ranks))
    published = paper.TABLE3 if part.name == "table3" else {}
    tables = {}
    for name, values in scores.items():
        table = preference_table(ranks, values, resamples).to_dict()
        if name in published:
            row = published[name]
            table["published"] = {
                "pooled_accuracy": _next_to_published(
                    table["pooled_accuracy"],
                    row.accuracy,
                    paper.TABLE3_TOLERANCE,
                    "the script's pooled pairs",
                ),
                "per_prompt_accuracy": _next_to_published(
                    table["per_prompt_accuracy"], row.accuracy, paper.TABLE3_TOLERANCE, "as the caption says"
                ),
                # Another set of prompts: the values stand beside each other, but reproduce nothing.
                "recall": {str(k): v for k, v in row.recall.items()},
                "filter": {str(k): v for k, v in row.filter.items()},
            }
        tables[name] = table
    comparisons = [
        {"first": a, "second": b, **compare_scorers(ranks, scores[a], scores[b], resamples)}
        for a, b in combinations(scores, 2)
    ]
    return {"scorers": tables, "comparisons": comparisons}


def _ranks(group: Group) -> tuple[int, ...]:
    assert group.ranks is not None  # a group of a preference part has ranks
    return group.ranks


def _generators(part: Part, scores: dict[str, list]) -> dict[str, Any]:
    names = part.generators
    by_generator = {
        scorer: {
            name: [values[i] for i, group in enumerate(part.groups) if group.generator == name]
            for name in names
        }
        for scorer, values in scores.items()
    }
    resamples = Resamples(len(next(iter(next(iter(by_generator.values())).values()))))
    reference = part.reference
    if reference is None:
        assert part.reference_scorer is not None  # a part has one of the two
        reference_table = generator_table(by_generator[part.reference_scorer], {}, resamples)
        reference = {name: row.rank for name, row in reference_table.rows.items()}
    tables = {}
    for scorer, values in by_generator.items():
        table = generator_table(values, reference, resamples).to_dict()
        if part.name == "table1":
            for name, row in table["generators"].items():
                known = paper.TABLE1.get(name)
                if known and scorer in known.scores:
                    row["published"] = _next_to_published(
                        row["mean"]["value"], known.scores[scorer], paper.TABLE1_TOLERANCE, "mean score"
                    )
            if scorer in paper.TABLE1_SPEARMAN:
                table["published_spearman"] = paper.TABLE1_SPEARMAN[scorer]
        tables[scorer] = table
    wins = {name: row.wins for name, row in paper.TABLE1.items()} if part.name == "table1" else None
    return {
        "scorers": tables,
        "reference": {name: reference.get(name) for name in names},
        "reference_wins": wins and {name: wins.get(name) for name in names},
        "judge": part.reference_scorer or "people",
        "titles": {name: part.titles.get(name, name) for name in names},
        "comparisons": _compare_rankings(by_generator, reference, resamples),
    }


def _compare_rankings(by_generator: dict, reference: dict[str, float], resamples: Resamples) -> list[dict]:
    """Difference of two scorers' Spearman correlation with the reference, over the same resamples."""
    known = [name for name in next(iter(by_generator.values())) if name in reference]
    if len(known) < 3:
        return []
    target = -np.array([reference[name] for name in known])
    means = {
        scorer: np.array([[_mean(v) for v in values[name]] for name in known]).T
        for scorer, values in by_generator.items()
    }  # scorer -> (P, G)
    found = []
    for a, b in combinations(means, 2):
        complete = (np.isfinite(means[a]) & np.isfinite(means[b])).all(1)
        if not complete.any():
            continue

        def difference(weights, a=a, b=b, complete=complete):
            drawn = weights[:, complete]
            with np.errstate(invalid="ignore", divide="ignore"):
                one, two = (drawn @ means[s][complete] / drawn.sum(1, keepdims=True) for s in (a, b))
            return spearman(one, target) - spearman(two, target)

        interval = resamples.statistic(difference)
        if np.isfinite(interval.value):
            found.append({"first": a, "second": b, "difference": interval.to_dict()})
    return found


def _agreement(scores: dict[str, list]) -> list[dict[str, Any]]:
    """Spearman between two scorers within a group, averaged over groups with at least three scored."""
    found = []
    for a, b in combinations(scores, 2):
        values = []
        for one, two in zip(scores[a], scores[b]):
            both = [(x, y) for x, y in zip(one, two) if x is not None and y is not None]
            if len(both) >= 3:
                values.append(float(spearman(*np.array(both).T)))
        values = [v for v in values if np.isfinite(v)]
        if values:
            found.append({"first": a, "second": b, "spearman": float(np.mean(values)), "groups": len(values)})
    return found


def _next_to_published(value: float, published: float, tolerance: float, meaning: str) -> dict[str, Any]:
    difference = value - published
    return {
        "value": published,
        "difference": difference,
        "reproduced": abs(difference) <= tolerance + 1e-9,
        "meaning": meaning,
    }


def _mean(values: list) -> float:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else float("nan")
