"""Scorers of a group that are not scoring models, such as VLM judges: they read images themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..errors import ImageError
from ..files.score_file import GroupRow, ScoredRow, joined_error
from ..inputs.image_file import ImageSource, image_name
from .scorer import Scorer


def rows_of(
    name: str, scorer: Scorer, prompts: Sequence[str], images: Sequence[ImageSource]
) -> Iterator[GroupRow]:
    """Yield a row for each pair, in order, with the score of one scorer or its error.

    Args:
        name: name of the scorer.
        scorer: a scorer; its ``score_rows`` is used if it has this method.
        prompts: N strings.
        images: N paths or PIL images.
    """
    score_rows = getattr(scorer, "score_rows", None)
    rows = _one_by_one(scorer, prompts, images) if score_rows is None else score_rows(prompts, images)
    for row in rows:
        scores = {} if row.score is None else {name: row.score}
        yield GroupRow(row.prompt, row.image, scores, row.error)


def merged(parts: Mapping[str, GroupRow]) -> GroupRow:
    """Return the rows of one pair as one row.

    Args:
        parts: row by name of its scorer.
    """
    first = next(iter(parts.values()))
    scores = {name: score for row in parts.values() for name, score in row.scores.items()}
    errors = {name: row.error for name, row in parts.items() if row.error is not None}
    return GroupRow(first.prompt, first.image, scores, joined_error(errors, len(parts)))


def _one_by_one(scorer: Scorer, prompts: Sequence[str], images: Sequence[ImageSource]) -> Iterator[ScoredRow]:
    for prompt, image in zip(prompts, images):
        try:
            score = float(scorer.score_pairs([prompt], [image])[0])
        except ImageError as error:
            yield ScoredRow(prompt, image_name(image), None, error.reason)
            continue
        yield ScoredRow(prompt, image_name(image), score)
