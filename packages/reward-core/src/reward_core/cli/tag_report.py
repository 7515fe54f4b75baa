"""The table and the JSON document of ``reward-core tag``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .tables import score_caption

if TYPE_CHECKING:
    from ..files.score_file import GroupRow
    from ..scoring.scorer_group import ScorerGroup

SHOWN = 10  # best and worst images in the table


@dataclass(frozen=True)
class Tag:
    """How the scores of a model are stored.

    Attributes:
        name: name of the scorer in its group.
        key: name of its scores in images.
        made_by: identity of the model.
    """

    name: str
    key: str
    made_by: str


@dataclass(frozen=True)
class Tagged:
    """A scored image, where its prompt is from, and key -> text of other scores in the file."""

    row: GroupRow
    source: str  # of the prompt
    others: dict[str, str] = field(default_factory=dict)


def tag_document(
    models: Sequence[str],
    tags: Sequence[Tag],
    group: ScorerGroup | None,
    tagged: Sequence[Tagged],
    written: bool,
) -> dict[str, Any]:
    """Return the document; the scores of a single model are not nested."""
    head: dict[str, Any] = {"models": {tag.name: tag.key for tag in tags}}
    if len(tags) == 1:
        head = {"model": models[0], "key": tags[0].key}
    results = [] if group is None else [_result(tags, group, done) for done in tagged]
    return {**head, "written": written, "results": results}


def _result(tags: Sequence[Tag], group: ScorerGroup, done: Tagged) -> dict[str, Any]:
    scores: dict[str, dict[str, float | None]] = {}
    for tag in tags:
        score = done.row.scores[tag.name]
        scores[tag.name] = {"score": score, "percentile": group[tag.name].percentile(score)}
    found: dict[str, Any] = scores[tags[0].name] if len(tags) == 1 else {"scores": scores}
    return {
        "image": done.row.image,
        "prompt": done.row.prompt,
        "prompt_source": done.source,
        **found,
        "other_scores": done.others,
    }


def print_tagged(
    models: Sequence[str], tags: Sequence[Tag], group: ScorerGroup, tagged: Sequence[Tagged], written: bool
) -> None:
    """Print a table of the images, or of the best and worst by the first model if there are many."""
    from ..printing.terminal import PlainTable, print_table

    single = len(tags) == 1
    quantiles = group[tags[0].name].score_quantiles if single else None
    table = PlainTable(
        caption=score_caption(
            models,
            f"written as {', '.join(repr(tag.key) for tag in tags)}"
            if written
            else "nothing written (--dry-run)",
            _others(tagged),
            f"percentile: {quantiles.source}" if quantiles else None,
        )
    )
    table.add_column("image")
    for tag in tags:
        table.add_column("score" if single else tag.name, justify="right")
    if quantiles:
        table.add_column("percentile", justify="right")
    table.add_column("prompt", wrap=True)
    table.add_column("source")
    for done in _shown(tagged, tags[0].name):
        if done is None:
            table.add_row(f"... {len(tagged) - 2 * SHOWN} more ...")
            continue
        prompt = done.row.prompt or ""
        prompt = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        scores = [done.row.scores[tag.name] for tag in tags]
        percentile = [f"{group[tags[0].name].percentile(scores[0]):.0f}"] if quantiles else []
        cells = [f"{score:.4f}" for score in scores]
        table.add_row(done.row.image, *cells, *percentile, prompt, done.source)
    print_table(table)


def _others(tagged: Sequence[Tagged]) -> str | None:
    """Return a line about scores of other models in the images, or None."""
    counts = Counter(key for done in tagged for key in done.others)
    found = ", ".join(f"{key!r} ({count} image{'s' * (count != 1)})" for key, count in counts.most_common(5))
    return f"other scores kept: {found}" if found else None


def _shown(tagged: Sequence[Tagged], name: str) -> list[Tagged | None]:
    """Return all images, or the best and the worst with None between them."""
    if len(tagged) <= 2 * SHOWN:
        return list(tagged)
    by_score = sorted(tagged, key=lambda done: -done.row.scores[name])
    return [*by_score[:SHOWN], None, *by_score[-SHOWN:]]
