"""How often a model prefers the image that people, or an oracle, prefer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..files.score_file import ScoredRow
from ..scoring.rewards import require_finite
from . import RankedPrompt

#: Upper bounds of the gaps between two images' utilities, for `Evaluation.by_gap`.
UTILITY_GAPS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Share:
    """accuracy in [0, 1] over a number of pairs."""

    pairs: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Shares of the untied pairs of images of one prompt that a model orders right.

    pooled_accuracy: over all pairs. per_prompt_accuracy: the mean over prompts of each prompt's share.
    by_gap: by how far apart the two are, in utility where the data tells it, otherwise in places.
    by_fault: pairs of a faultless image and one with that fault alone; empty where faults are unknown.
    by_objects: by how many things the prompt names, where the data says. An equal score counts as wrong.
    """

    pooled_accuracy: float
    per_prompt_accuracy: float
    pairs: int
    prompts: int
    by_gap: dict[str, Share]
    by_fault: dict[str, Share]
    by_objects: dict[str, Share]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: keys as the fields, shares as {"pairs", "accuracy"}."""
        shares = {
            name: {key: vars(share) for key, share in getattr(self, name).items()}
            for name in ("by_gap", "by_fault", "by_objects")
        }
        return {**vars(self), **shares}


def evaluate(data: Sequence[RankedPrompt], rows: Iterable[ScoredRow]) -> Evaluation:
    """Compare scores with rankings.

    Args:
        data: prompts with their images and places.
        rows: one for each image of each prompt, in order, as ``Scorer.score_rows`` gives them; pairs
            with an image that has no score are left out.

    Raises:
        ValueError: fewer rows than images, or no untied pair with scores.
        NonFiniteRewardError: a score that is NaN or infinite; it would lose every comparison.
    """
    rows = iter(rows)
    shares: dict[tuple[str, str], list[bool]] = defaultdict(list)
    every: list[bool] = []
    per_prompt: list[float] = []
    for item in data:
        own_rows = list(islice(rows, len(item.images)))
        scored = [(row.image, row.score) for row in own_rows if row.score is not None]
        require_finite([score for _, score in scored], "evaluate", lambda i: f"the score of {scored[i][0]}")  # noqa: B023
        scores = [row.score for row in own_rows]
        if len(scores) < len(item.images):
            raise ValueError(f"{len(scores)} scores for the {len(item.images)} images of {item.prompt!r}")
        own: list[bool] = []
        for better, worse in _untied(item.ranks):
            score, other = scores[better], scores[worse]
            if score is None or other is None:
                continue
            right = score > other
            own.append(right)
            shares["gap", _gap(item, better, worse)].append(right)
            if item.objects is not None:
                shares["objects", str(item.objects)].append(right)
            if item.faults and not item.faults[better] and len(set(item.faults[worse])) == 1:
                shares["fault", item.faults[worse][0]].append(right)
        if own:
            per_prompt.append(sum(own) / len(own))
            every += own
    if not every:
        raise ValueError("no two images of a prompt that differ in place and have scores")
    parts: dict[str, dict[str, Share]] = {"gap": {}, "fault": {}, "objects": {}}
    for (part, key), rights in sorted(shares.items()):
        parts[part][key] = Share(len(rights), sum(rights) / len(rights))
    return Evaluation(
        pooled_accuracy=sum(every) / len(every),
        per_prompt_accuracy=sum(per_prompt) / len(per_prompt),
        pairs=len(every),
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
