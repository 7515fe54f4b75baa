"""Render a result as HTML: ranked cards for each prompt, a table of all prompts, the meaning of scores.

Names, prompts and reasons come from visitors, so all of them are escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import cycle

from ..network.score_quantiles import ScoreQuantiles
from ..printing.escapes import html_text
from .charts import bar, distribution
from .explanations import explanation_html
from .image_ranking import ModelRanking, RankingResult, agreement, result_csv

KINDS = ("first", "second", "third", "fourth")  # colors of the models, in style.css

EMPTY = """<div class="rc-empty"><p>Ranked pictures appear here.</p>
<p>Add some, type what they were meant to show, and press <b>Rank</b>.</p></div>"""


def notice(text: str) -> str:
    """Return the HTML of a one-line message about missing input or an error."""
    return f'<div class="rc-notice" role="alert">{html_text(text)}</div>'


def results_html(result: RankingResult) -> str:
    """Return the HTML of a result: notes and failed files, then a section per prompt."""
    parts = [_thumbnails(result)]
    parts += [notice(text) for text in result.notes]
    if result.failed:
        lines = "".join(f"<li><b>{html_text(n)}</b>: {html_text(reason)}</li>" for n, reason in result.failed)
        title = f"{_count(len(result.failed), 'file')} could not be ranked"
        parts.append(f'<div class="rc-notice" role="alert">{title}<ul>{lines}</ul></div>')
    if result.images:
        parts.append(_head(result))
        if len(result.prompts) > 1:
            parts.append(_glance(result))
        parts += [_section(result, p) for p in range(len(result.prompts))]
    return f'<div class="rc-results">{"".join(parts)}</div>'


def meaning_html(
    rankings: list[ModelRanking], meaning: Callable[[str], str | None] = lambda model: None
) -> str:
    """Return the HTML that explains the scores of each model: their distribution and percentiles.

    Args:
        rankings: the scores.
        meaning: function from a model's name to one line about its scores, or None.
    """
    parts = [
        "<p>A score is not an absolute grade. Models learn scores from people's choices between two pictures "
        "for the same prompt, so scores show <b>which picture for a prompt</b> people would prefer, and how "
        "strongly. Compare pictures of the same prompt. Scores of different prompts are only roughly "
        "comparable, and scores of different models are not comparable.</p>"
    ]
    for kind, model_ranking in zip(cycle(KINDS), rankings):
        parts.append(f'<section class="rc-meaning"><h3><i class="rc-dot rc-{kind}"></i>')
        parts.append(f"{html_text(model_ranking.model)}</h3>")
        if model_ranking.quantiles is None and not model_ranking.scores:
            parts.append("<p>Rank some pictures to see their scores.</p>")
        else:
            parts.append(distribution(model_ranking, kind))
        parts.append("<div>")
        if (line := meaning(model_ranking.model)) is not None:
            parts.append(f"<p>{html_text(line)}.</p>")
        if model_ranking.quantiles is None:
            parts.append(
                "<p>The distribution of this model's scores is unknown, so there are no percentiles: only "
                "the order of the scores for a prompt is meaningful.</p>"
            )
        else:
            parts.append(_scale(model_ranking.quantiles))
        if model_ranking.scores:
            parts.append("<p>Ticks: the scores of your pictures. Dots: the best of each prompt.</p>")
        parts.append("</div></section>")
    return f'<div class="rc-results">{"".join(parts)}</div>'


def _thumbnails(result: RankingResult) -> str:
    """Return a style sheet with each thumbnail, so that several prompts can show it without copies."""
    rules = "".join(
        f".rc-t{n}{{background-image:url({image.thumbnail})}}" for n, image in enumerate(result.images)
    )
    return f"<style>{rules}</style>"


def _image(result: RankingResult, n: int) -> str:
    image = result.images[n]
    small = " rc-pixels" if max(image.width, image.height) <= 128 else ""
    name = html_text(image.name)
    return f'<div class="rc-picture rc-t{n}{small}" role="img" aria-label="{name}"></div>'


def _head(result: RankingResult) -> str:
    names = " ".join(
        f'<span><i class="rc-dot rc-{kind}"></i>{html_text(model_ranking.model)}</span>'
        for kind, model_ranking in zip(cycle(KINDS), result.rankings)
    )
    data = base64.b64encode(result_csv(result).encode("utf-8", "backslashreplace")).decode()
    link = f'<a class="rc-download" download="scores.csv" href="data:text/csv;base64,{data}">Download CSV</a>'
    counts = f"{_count(len(result.images), 'picture')}, {_count(len(result.prompts), 'prompt')}"
    known = [
        f"{html_text(model_ranking.model)} ({html_text(model_ranking.quantiles.source)})"
        for model_ranking in result.rankings
        if model_ranking.quantiles
    ]
    message = (
        f'<p class="rc-source">“Better than”, and the mark at the median, come from: {", ".join(known)}.</p>'
    )
    models = f'<span class="rc-models">{names}</span>'
    return f'<div class="rc-head"><div><b>{counts}</b> {models}</div>{link}{message if known else ""}</div>'


def _section(result: RankingResult, p: int) -> str:
    """Return the section of one prompt with its images, best first."""
    ranks = result.rankings[0].ranks(p)
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    cards = "".join(_card(result, p, n, rank) for rank, n in enumerate(order, start=1))
    title = f"<h3>{html_text(result.prompts[p]) or '(empty prompt)'}</h3>"
    cards = f'<div class="rc-cards">{cards}</div>'
    return f'<section class="rc-prompt">{title}{_compared(result, p)}{cards}</section>'


def _card(result: RankingResult, p: int, n: int, rank: int) -> str:
    lines = []
    for kind, model_ranking in zip(cycle(KINDS), result.rankings):
        score = model_ranking.scores[p][n]
        percentile = model_ranking.percentile(score)
        better = "" if percentile is None else f"better than {_percent(percentile)}"
        model_rank = (
            ""
            if len(result.rankings) == 1
            else f'<em title="rank by {html_text(model_ranking.model)}">#{model_ranking.ranks(p)[n]}</em>'
        )
        lines.append(
            f'<div class="rc-line"><span class="rc-score">{score:.2f}</span>'
            f"<span>{better}</span>{model_rank}</div>"
            f"{bar(model_ranking, score, kind)}"
        )
        if model_ranking.explanations:
            lines.append(explanation_html(model_ranking.explanations[p][n]))
    name = html_text(result.images[n].name)
    winner = " rc-winner" if rank == 1 and len(result.images) > 1 else ""
    badge = f'<div class="rc-place">{rank}</div>' + ('<div class="rc-crown">best</div>' if winner else "")
    return (
        f'<figure class="rc-card{winner}" data-place="{rank}" data-name="{name}">'
        f'<div class="rc-frame">{_image(result, n)}{badge}</div>'
        f'<figcaption><div class="rc-file" title="{name}">{name}</div>'
        f"{''.join(lines)}</figcaption></figure>"
    )


def _compared(result: RankingResult, p: int) -> str:
    """Return a paragraph for each further model about its agreement with the first one for a prompt."""
    if len(result.images) < 2:
        return ""
    first, *others = result.rankings
    return "".join(_agreement(result, first, other, p) for other in others)


def _agreement(result: RankingResult, first: ModelRanking, second: ModelRanking, p: int) -> str:
    alike, pairs = agreement(first, second, p)
    best, second_best = first.ranks(p).index(1), second.ranks(p).index(1)
    name = html_text(result.images[second_best].name)
    both = "Both put" if len(result.rankings) == 2 else (
        f"{html_text(first.model)} and {html_text(second.model)} put"
    )  # fmt: skip
    same = f"{both} the same picture first" if best == second_best else (
        f"{html_text(second.model)} would put <b>{name}</b> first"
    )  # fmt: skip
    they = "they order" if len(result.rankings) == 2 else f"it and {html_text(first.model)} order"
    if best == second_best:
        they = "they order"
    return f'<p class="rc-compared">{same}; {they} {alike} of {pairs} pairs alike.</p>'


def _glance(result: RankingResult) -> str:
    """Return a table of images and prompts with the scores of the first model; the best are marked."""
    model_ranking = result.rankings[0]
    heads = "".join(
        f'<th><span title="{html_text(prompt)}">{html_text(prompt)}</span></th>' for prompt in result.prompts
    )
    ranks = [model_ranking.ranks(p) for p in range(len(result.prompts))]
    count = len(result.images)
    order = sorted(range(count), key=lambda n: -sum(row[n] for row in model_ranking.scores))
    rows = []
    for n in order:
        cells = []
        for p, row in enumerate(model_ranking.scores):
            # Tinted by rank, not by score, because scores of different prompts are only roughly comparable.
            tint = 100 * (count - ranks[p][n]) / max(1, count - 1)
            mark = ' class="rc-first-place"' if ranks[p][n] == 1 else ""
            cells.append(f'<td{mark} style="--tint:{tint:.0f}%">{row[n]:.2f}</td>')
        name = html_text(result.images[n].name)
        rows.append(
            f'<tr><th>{_image(result, n)}<span title="{name}">{name}</span></th>{"".join(cells)}</tr>'
        )
    return (
        '<section class="rc-prompt"><h3>All prompts at a glance</h3><div class="rc-scroll">'
        f'<table class="rc-glance"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _scale(quantiles: ScoreQuantiles) -> str:
    values = quantiles.values
    marks = [mark for mark in (-2, -1, 0, 1, 1.5, 2) if values[0] < mark < values[-1]]
    cells = "".join(
        f"<tr><td>{mark:g}</td><td>better than {_percent(quantiles.percentile(mark))}</td></tr>"
        for mark in marks
    )
    table = f'<table class="rc-scale"><tbody>{cells}</tbody></table>' if marks else ""
    return f"{table}<p>Percentiles: {html_text(quantiles.source)}.</p>"


def _percent(percentile: float) -> str:
    return f"{percentile:.0f}%"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
