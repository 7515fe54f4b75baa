"""Evaluate how often a model prefers the image that people, or an oracle, prefer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..files.score_file import ScoredRow
from ..scoring.rewards import require_finite
from . import RankedPrompt

#: Upper bounds of the utility gaps in ``Evaluation.by_gap``.
UTILITY_GAPS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Share:
    """An accuracy in [0, 1] and the number of pairs it is computed from."""

    pairs: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a model on untied pairs of images of the same prompt. Equal scores count as wrong.

    Attributes:
        pooled_accuracy: accuracy over all pairs.
        per_prompt_accuracy: mean over prompts of each prompt's accuracy.
        pairs: number of pairs.
        prompts: number of prompts with pairs.
        by_gap: accuracy by the difference in utility, or in rank if the data has no utilities.
        by_fault: accuracy on pairs of a faultless image and one with only this fault; empty if the data has
            no faults.
        by_objects: accuracy by the number of things in the prompt, if the data has it.
    """

    pooled_accuracy: float
    per_prompt_accuracy: float
    pairs: int
    prompts: int
    by_gap: dict[str, Share]
    by_fault: dict[str, Share]
    by_objects: dict[str, Share]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON; shares are {"pairs", "accuracy"}."""
        shares = {
            name: {key: vars(share) for key, share in getattr(self, name).items()}
            for name in ("by_gap", "by_fault", "by_objects")
        }
        return {**vars(self), **shares}


def evaluate(data: Sequence[RankedPrompt], rows: Iterable[ScoredRow]) -> Evaluation:
    """Compare scores with rankings.

    Args:
        data: groups of ranked images.
        rows: one row per image of each group, in order, as from ``Scorer.score_rows``. Pairs with an image
            that has no score are left out.

    Raises:
        ValueError: there are fewer rows than images, or no untied pair has scores.
        NonFiniteRewardError: a score is NaN or infinite.
    """
    rows = iter(rows)
    shares: dict[tuple[str, str], list[bool]] = defaultdict(list)
    results: list[bool] = []  # of each pair: whether it is ordered correctly
    per_prompt: list[float] = []
    for item in data:
        item_rows = list(islice(rows, len(item.images)))
        scored = [(row.image, row.score) for row in item_rows if row.score is not None]
        require_finite([score for _, score in scored], "evaluate", lambda i: f"the score of {scored[i][0]}")  # noqa: B023
        scores = [row.score for row in item_rows]
        if len(scores) < len(item.images):
            raise ValueError(
                f"Cannot evaluate {item.prompt!r}: {len(scores)} scores for its {len(item.images)} images."
            )
        item_results: list[bool] = []
        for better, worse in _untied(item.ranks):
            score, other = scores[better], scores[worse]
            if score is None or other is None:
                continue
            correct = score > other
            item_results.append(correct)
            shares["gap", _gap(item, better, worse)].append(correct)
            if item.objects is not None:
                shares["objects", str(item.objects)].append(correct)
            if item.faults and not item.faults[better] and len(set(item.faults[worse])) == 1:
                shares["fault", item.faults[worse][0]].append(correct)
        if item_results:
            per_prompt.append(sum(item_results) / len(item_results))
            results += item_results
    if not results:
        raise ValueError(
            "Cannot evaluate the rankings: no prompt has two images with different ranks and with scores."
        )
    parts: dict[str, dict[str, Share]] = {"gap": {}, "fault": {}, "objects": {}}
    for (part, key), values in sorted(shares.items()):
        parts[part][key] = Share(len(values), sum(values) / len(values))
    return Evaluation(
        pooled_accuracy=sum(results) / len(results),
        per_prompt_accuracy=sum(per_prompt) / len(per_prompt),
        pairs=len(results),
        prompts=len(per_prompt),
        by_gap=parts["gap"],
        by_fault=parts["fault"],
        by_objects=parts["objects"],
    )


def _untied(ranks: Sequence[int]) -> Iterable[tuple[int, int]]:
    for i, rank in enumerate(ranks):
        for j, other in enumerate(ranks):
            if rank < other:
                yield i, j


def _gap(item: RankedPrompt, better: int, worse: int) -> str:
    if item.utilities is None:
        ranks = item.ranks[worse] - item.ranks[better]
        return f"{ranks} place" if ranks == 1 else f"{ranks} places"
    gap = abs(item.utilities[better] - item.utilities[worse])
    low = max((bound for bound in (0.0, *UTILITY_GAPS[:-1]) if bound <= gap), default=0.0)
    high = next((bound for bound in UTILITY_GAPS if bound > low), float("inf"))
    return f"{low}-{high}"
