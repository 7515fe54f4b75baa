"""A self-contained HTML page for a run, with tables, charts and images."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from reward_core.errors import ImageError
from reward_core.inputs.image_file import open_image
from reward_core.printing.escapes import printable

from .charts import agreement_chart, distribution_chart
from .metrics.preference import pairs_right
from .results import GeneratorsSummary, PartSummary, SuiteSummary
from .run_files import ReportGroup
from .score_store import Key, Score
from .tables import TextTable, tables_of

THUMBNAIL = 128  # pixels
DISAGREEMENTS = 6  # groups per scorer

Rows = Mapping[Key, Score]


@dataclass(frozen=True)
class Thumbnail:
    """A small image.

    Attributes:
        kind: "best", "worst" or "".
        address: data URL of the image; None if the file cannot be read.
        caption: text below the image.
        prompt: prompt of the image.
    """

    kind: str
    address: str | None
    caption: str
    prompt: str


@dataclass(frozen=True)
class Strip:
    """The best and worst images of a generator according to a scorer."""

    generator: str
    scorer: str
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class Disagreement:
    """A group that a scorer orders differently from people.

    Attributes:
        scorer: name of the scorer.
        prompt: prompt of the group.
        pairs_right: text such as "2 of 6 pairs right".
        thumbnails: the images, people's favorite first.
    """

    scorer: str
    prompt: str
    pairs_right: str
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class PartView:
    """A part as the template shows it; ``distributions``, ``agreement`` are SVG."""

    title: str
    revision: str
    tables: list[TextTable]
    distributions: str
    agreement: str
    strips: list[Strip]
    disagreements: list[Disagreement]


def html_page(summary: SuiteSummary, groups: Sequence[ReportGroup], rows: Rows) -> str:
    """Return the HTML page of a run.

    Args:
        summary: the results.
        groups: the images of all parts.
        rows: the scores of all images.
    """
    from jinja2 import Environment, PackageLoader

    views = [
        _view(part, [group for group in groups if group.part == part.name], rows) for part in summary.parts
    ]
    loader = PackageLoader("reward_benchmark")
    environment = Environment(loader=loader, autoescape=True, finalize=_escape_controls)
    return environment.get_template("report.html").render(summary=summary, parts=views)


def _escape_controls(value: Any) -> Any:
    """Escape control characters of plain text. Jinja escapes HTML."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _view(part: PartSummary, groups: Sequence[ReportGroup], rows: Rows) -> PartView:
    scorers = list(part.scorers)
    has_generators = isinstance(part, GeneratorsSummary)
    return PartView(
        title=part.title,
        revision=part.revision,
        tables=list(tables_of(part)),
        distributions=distribution_chart(_distributions(scorers, groups, rows)),
        agreement=agreement_chart(scorers, part.agreement),
        strips=_strips(part, groups, rows) if isinstance(part, GeneratorsSummary) else [],
        disagreements=[] if has_generators else _disagreements(scorers, groups, rows),
    )


def _scores(group: ReportGroup, scorer: str, rows: Rows) -> list[float | None]:
    none = Score(None)
    return [rows.get((group.part, scorer, name), none).score for name in group.names]


def _distributions(
    scorers: Sequence[str], groups: Sequence[ReportGroup], rows: Rows
) -> dict[str, dict[str, list[float]]]:
    """Return scorer -> generator (or "all") -> scores."""
    distributions: dict[str, dict[str, list[float]]] = {}
    for scorer in scorers:
        by_label = distributions.setdefault(scorer, {})
        for group in groups:
            scores = (score for score in _scores(group, scorer, rows) if score is not None)
            by_label.setdefault(group.generator or "all", []).extend(scores)
    return distributions


def _strips(part: GeneratorsSummary, groups: Sequence[ReportGroup], rows: Rows) -> list[Strip]:
    """Return the best and worst images of each generator.

    The scorer is the first one that is neither the reference nor random.
    """
    scorers = list(part.scorers)
    scorer = next((name for name in scorers if name not in (part.judge, "random")), scorers[0])
    strips = []
    for generator in part.reference:
        scored = [
            (score, name, image, group.prompt)
            for group in groups
            if group.generator == generator
            for name, image, score in zip(group.names, group.images, _scores(group, scorer, rows))
            if score is not None
        ]
        scored.sort(key=lambda item: item[:2], reverse=True)
        thumbnails = [
            _thumbnail(kind, image, f"{score:.3f}", prompt)
            for kind, selected in (("best", scored[:4]), ("worst", scored[-4:]))
            for score, _, image, prompt in selected
        ]
        strips.append(Strip(generator, scorer, thumbnails))
    return strips


def _disagreements(scorers: Sequence[str], groups: Sequence[ReportGroup], rows: Rows) -> list[Disagreement]:
    """Return the groups with the largest share of wrong pairs, for each scorer."""
    disagreements = []
    for scorer in (name for name in scorers if name != "random"):
        wrong = []
        for group in groups:
            right, pairs = pairs_right(group.ranks or (), _scores(group, scorer, rows))
            if pairs >= 3 and right < pairs:
                wrong.append((right / pairs, -pairs, group.id, right, group))
        for _, pairs, _, right, group in sorted(wrong, key=lambda item: item[:3])[:DISAGREEMENTS]:
            thumbnails = _in_order(group, _scores(group, scorer, rows))
            pairs_text = f"{right} of {-pairs} pairs right"
            disagreements.append(Disagreement(scorer, group.prompt, pairs_text, thumbnails))
    return disagreements


def _in_order(group: ReportGroup, scores: Sequence[float | None]) -> list[Thumbnail]:
    """Return the images of a group, people's favorite first."""
    ranks = group.ranks or ()
    return [
        _thumbnail("", group.images[i], f"{ranks[i]}. | {_number(scores[i])}", group.prompt)
        for i in np.argsort(ranks, kind="stable")
    ]


def _number(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def _thumbnail(kind: str, image: str, caption: str, prompt: str) -> Thumbnail:
    try:
        opened_image = open_image(image).convert("RGB")
    except (ImageError, ValueError):
        return Thumbnail(kind, None, caption, prompt)
    opened_image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = BytesIO()
    opened_image.save(data, "WEBP", quality=85)
    address = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    return Thumbnail(kind, address, caption, prompt)
