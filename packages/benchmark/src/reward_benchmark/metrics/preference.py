"""Table 3: how often a scorer prefers the image that people prefer.

Letters in shape comments: P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..json_record import JsonObject, JsonRecord, json_object, key, path
from .bootstrap import Interval, Resamples, sign_flip_test
from .retrieval import KS, MIN_IMAGES, filtered_at, recalled_at

Ranks = Sequence[Sequence[int]]
Scores = Sequence[Sequence["float | None"]]


@dataclass(frozen=True)
class Retrieval:
    """Recall@k or Filter@k over ``n`` prompts with at least 8 scored images.

    Attributes:
        at: k -> share of prompts, in [0, 1].
        n: number of prompts.
    """

    at: dict[int, Interval]
    n: int


@dataclass(frozen=True)
class PreferenceTable(JsonRecord):
    """One scorer's row of Table 3; shares in [0, 1].

    Pairs that people ranked as ties are not counted. A pair with equal scores counts as wrong.

    Attributes:
        pooled_accuracy: share of correct pairs over all prompts together, as in the authors' script.
        per_prompt_accuracy: mean over prompts of the share of correct pairs, as in the paper's caption.
        pairs: number of counted pairs.
        prompts: number of prompts with counted pairs.
        images: number of scored images.
        missing: number of images without a score.
        recall: Recall@k; None if no prompt has 8 or more scored images.
        filter: Filter@k; None if no prompt has 8 or more scored images.
    """

    pooled_accuracy: Interval
    per_prompt_accuracy: Interval
    pairs: int
    prompts: int
    images: int
    missing: int
    recall: Retrieval | None
    filter: Retrieval | None

    def to_json(self) -> JsonObject:
        """Return the JSON object: plain values, and their intervals under "intervals"."""
        intervals = _Intervals(
            self.pooled_accuracy,
            self.per_prompt_accuracy,
            self.recall.at if self.recall else None,
            self.filter.at if self.filter else None,
        )
        return {
            "pooled_accuracy": self.pooled_accuracy.value,
            "per_prompt_accuracy": self.per_prompt_accuracy.value,
            **_Counts(self.pairs, self.prompts, self.images, self.missing).to_json(),
            "recall": self.recall and _plain_values(self.recall),
            "filter": self.filter and _plain_values(self.filter),
            "intervals": intervals.to_json(),
        }

    @classmethod
    def from_json(cls, content: object, where: str = "") -> PreferenceTable:
        counts = _Counts.from_json(content, where)
        sizes = _Sizes.from_json(content, where)
        intervals = _Intervals.from_json(
            json_object(content, where).get("intervals"), path(where, "intervals")
        )
        return cls(
            intervals.pooled_accuracy,
            intervals.per_prompt_accuracy,
            counts.pairs,
            counts.prompts,
            counts.images,
            counts.missing,
            _joined(intervals.recall, sizes.recall),
            _joined(intervals.filter, sizes.filter),
        )


@dataclass(frozen=True)
class PairedComparison(JsonRecord):
    """Comparison of two scorers' pooled accuracy over the same prompts and images.

    Attributes:
        difference: accuracy of the first scorer minus that of the second.
        p_value: p-value of a two-sided sign-flip test over prompts.
        pairs: number of counted pairs.
    """

    difference: Interval
    p_value: float
    pairs: int


# Parts of a PreferenceTable's JSON.


@dataclass(frozen=True)
class _Counts(JsonRecord):
    pairs: int
    prompts: int
    images: int = field(metadata=key("pictures"))
    missing: int


@dataclass(frozen=True)
class _Intervals(JsonRecord):
    pooled_accuracy: Interval
    per_prompt_accuracy: Interval
    recall: dict[int, Interval] | None
    filter: dict[int, Interval] | None


@dataclass(frozen=True)
class _Size(JsonRecord):
    n: int


@dataclass(frozen=True)
class _Sizes(JsonRecord):
    recall: _Size | None
    filter: _Size | None


def _joined(at: dict[int, Interval] | None, size: _Size | None) -> Retrieval | None:
    return None if at is None or size is None else Retrieval(at, size.n)


def _plain_values(retrieval: Retrieval) -> JsonObject:
    return {**{str(k): interval.value for k, interval in retrieval.at.items()}, "n": retrieval.n}


def pairs_right(ranks: Sequence[int], scores: Sequence[float | None]) -> tuple[int, int]:
    """Return the number of correct pairs and of counted pairs of one prompt.

    Pairs with tied ranks or without a score are not counted.
    """
    right = counted = 0
    for better, rank in enumerate(ranks):
        for worse, other in enumerate(ranks):
            score, worse_score = scores[better], scores[worse]
            if rank < other and score is not None and worse_score is not None:
                counted += 1
                right += score > worse_score
    return right, counted


def preference_table(ranks: Ranks, scores: Scores, resamples: Resamples | None = None) -> PreferenceTable:
    """Compute Table 3 for one scorer.

    Args:
        ranks: per prompt, the rank of each image; 1 is best, ties and gaps are allowed.
        scores: per prompt, the score of each image; None for an image without a score.
        resamples: bootstrap resamples over the prompts; None: new ones.

    Raises:
        ValueError: different lengths, a score that is not finite, or no pair to count.
    """
    _check(ranks, scores)
    resamples = resamples or Resamples(len(ranks))
    right, counted = _counts(ranks, scores)
    if not counted.sum():
        raise ValueError("Cannot evaluate the scores: no prompt has two scored images of different rank.")
    share = np.divide(right, counted, out=np.zeros(len(right)), where=counted > 0)
    is_scored = [[s is not None for s in group] for group in scores]
    return PreferenceTable(
        pooled_accuracy=resamples.ratio(right, counted),
        per_prompt_accuracy=resamples.ratio(share, counted > 0),
        pairs=int(counted.sum()),
        prompts=int((counted > 0).sum()),
        images=sum(map(sum, is_scored)),
        missing=sum(len(group) - sum(group) for group in is_scored),
        recall=_retrieval(recalled_at, ranks, scores, resamples),
        filter=_retrieval(filtered_at, ranks, scores, resamples),
    )


def compare_scorers(
    ranks: Ranks, first: Scores, second: Scores, resamples: Resamples | None = None
) -> PairedComparison:
    """Compare two scorers' pooled accuracy over the same prompts and images.

    An image that one of them could not score is left out for both.

    Args:
        ranks: per prompt, the rank of each image; 1 is best.
        first: scores of the first scorer, shaped as ``ranks``.
        second: scores of the second scorer, shaped as ``ranks``.
        resamples: bootstrap resamples over the prompts; None: new ones.

    Raises:
        ValueError: different lengths, a score that is not finite, or no pair to count.
    """
    _check(ranks, first)
    _check(ranks, second)
    resamples = resamples or Resamples(len(ranks))
    both = [
        [(x, y) if None not in (x, y) else (None, None) for x, y in zip(a, b)] for a, b in zip(first, second)
    ]
    right_first, counted = _counts(ranks, [[x for x, _ in group] for group in both])
    right_second, _ = _counts(ranks, [[y for _, y in group] for group in both])
    if not counted.sum():
        raise ValueError(
            "Cannot compare the scorers: no prompt has two images of different rank that both scored."
        )
    return PairedComparison(
        difference=resamples.ratio(right_first - right_second, counted),
        p_value=sign_flip_test(right_first - right_second),
        pairs=int(counted.sum()),
    )


def _counts(ranks: Ranks, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([pairs_right(p, s) for p, s in zip(ranks, scores)], float).reshape(-1, 2)
    return counts[:, 0], counts[:, 1]  # (P,), (P,)


def _retrieval(measure, ranks: Ranks, scores: Scores, resamples: Resamples) -> Retrieval | None:
    hits = np.zeros((len(KS), len(ranks)))
    used = np.zeros(len(ranks))
    for i, (group, values) in enumerate(zip(ranks, scores)):
        scored = [(p, v) for p, v in zip(group, values) if v is not None]
        if len(scored) < MIN_IMAGES or len({p for p, _ in scored}) < 2:
            continue
        used[i] = 1
        for row, k in enumerate(KS):
            hits[row, i] = measure(k, *zip(*scored))
    if not used.any():
        return None
    return Retrieval({k: resamples.ratio(hits[row], used) for row, k in enumerate(KS)}, int(used.sum()))


def _check(ranks: Ranks, scores: Scores) -> None:
    if len(ranks) != len(scores):
        raise ValueError(
            f"Cannot evaluate the scores: {len(ranks)} prompts have ranks, but {len(scores)} have scores."
        )
    for i, (group, values) in enumerate(zip(ranks, scores)):
        if len(group) != len(values):
            raise ValueError(
                f"Cannot evaluate the scores: prompt {i} has {len(group)} ranks, but {len(values)} scores."
            )
        for value in values:
            if value is not None and not np.isfinite(value):
                raise ValueError(
                    f"Cannot evaluate the scores: the score {value} for prompt {i} is not a finite number."
                )
