"""A verdict as HTML: one ranked row of cards a prompt, all prompts at a glance, what scores mean.

Names, prompts and reasons come from whoever uses the page, so every one of them is escaped.
"""

from __future__ import annotations

import base64
from html import escape

from ..network.score_quantiles import ScoreQuantiles
from .charts import bar, distribution
from .judging import Opinion, Verdict, agreement, verdict_csv

KINDS = ("first", "second")  # the two models' colors, in style.css

EMPTY = """<div class="rc-empty"><p>Ranked pictures appear here.</p>
<p>Add some, type what they were meant to show, and press <b>Rank</b>.</p></div>"""


def notice(text: str) -> str:
    """One line about something that is missing or went wrong."""
    return f'<div class="rc-notice" role="alert">{escape(text)}</div>'


def results_html(verdict: Verdict) -> str:
    """The whole result: what could not be read, then a section a prompt."""
    parts = [_thumbnails(verdict)]
    parts += [notice(text) for text in verdict.notes]
    if verdict.failed:
        lines = "".join(f"<li><b>{escape(n)}</b>: {escape(reason)}</li>" for n, reason in verdict.failed)
        title = f"{_count(len(verdict.failed), 'file')} could not be ranked"
        parts.append(f'<div class="rc-notice" role="alert">{title}<ul>{lines}</ul></div>')
    if verdict.images:
        parts.append(_head(verdict))
        if len(verdict.prompts) > 1:
            parts.append(_glance(verdict))
        parts += [_section(verdict, p) for p in range(len(verdict.prompts))]
    return f'<div class="rc-results">{"".join(parts)}</div>'


def meaning_html(opinions: list[Opinion]) -> str:
    """What a score means, for each model: its distribution and a scale of percentiles."""
    parts = [
        "<p>A score is no grade of its own. It is learned from which of two pictures people preferred for "
        "the same prompt, so it tells <b>which picture of a prompt</b> people would rather have, and by how "
        "much. Compare pictures of one prompt; scores of different prompts compare loosely, of different "
        "models not at all.</p>"
    ]
    for kind, opinion in zip(KINDS, opinions):
        parts.append(f'<section class="rc-meaning"><h3><i class="rc-dot rc-{kind}"></i>')
        parts.append(f"{escape(opinion.model)}</h3>")
        if opinion.quantiles is None and not opinion.scores:
            parts.append("<p>Rank some pictures to see their scores.</p>")
        else:
            parts.append(distribution(opinion, kind))
        parts.append("<div>")
        if opinion.quantiles is None:
            parts.append(
                "<p>How this model's scores are distributed is not known, so there is no percentile: "
                "only their order within a prompt says something.</p>"
            )
        else:
            parts.append(_scale(opinion.quantiles))
        if opinion.scores:
            parts.append("<p>Ticks: the scores just ranked. Dots: the best of each prompt.</p>")
        parts.append("</div></section>")
    return f'<div class="rc-results">{"".join(parts)}</div>'


def _thumbnails(verdict: Verdict) -> str:
    """Each image once, however many prompts show it."""
    rules = "".join(
        f".rc-t{n}{{background-image:url({image.thumbnail})}}" for n, image in enumerate(verdict.images)
    )
    return f"<style>{rules}</style>"


def _image(verdict: Verdict, n: int) -> str:
    image = verdict.images[n]
    small = " rc-pixels" if max(image.width, image.height) <= 128 else ""
    name = escape(image.name)
    return f'<div class="rc-picture rc-t{n}{small}" role="img" aria-label="{name}"></div>'


def _head(verdict: Verdict) -> str:
    names = " ".join(
        f'<span><i class="rc-dot rc-{kind}"></i>{escape(opinion.model)}</span>'
        for kind, opinion in zip(KINDS, verdict.opinions)
    )
    data = base64.b64encode(verdict_csv(verdict).encode("utf-8")).decode()
    link = f'<a class="rc-download" download="scores.csv" href="data:text/csv;base64,{data}">Download CSV</a>'
    counts = f"{_count(len(verdict.images), 'picture')}, {_count(len(verdict.prompts), 'prompt')}"
    known = [
        f"{escape(opinion.model)} ({escape(opinion.quantiles.source)})"
        for opinion in verdict.opinions
        if opinion.quantiles
    ]
    message = (
        f'<p class="rc-source">“Better than”, and the mark at the median, come from: {", ".join(known)}.</p>'
    )
    models = f'<span class="rc-models">{names}</span>'
    return f'<div class="rc-head"><div><b>{counts}</b> {models}</div>{link}{message if known else ""}</div>'


def _section(verdict: Verdict, p: int) -> str:
    """One prompt's images, best first."""
    ranks = verdict.opinions[0].ranks(p)
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    cards = "".join(_card(verdict, p, n, rank) for rank, n in enumerate(order, start=1))
    title = f"<h3>{escape(verdict.prompts[p]) or '(empty prompt)'}</h3>"
    cards = f'<div class="rc-cards">{cards}</div>'
    return f'<section class="rc-prompt">{title}{_compared(verdict, p)}{cards}</section>'


def _card(verdict: Verdict, p: int, n: int, rank: int) -> str:
    lines = []
    for kind, opinion in zip(KINDS, verdict.opinions):
        score = opinion.scores[p][n]
        percentile = opinion.percentile(score)
        better = "" if percentile is None else f"better than {_percent(percentile)}"
        own = (
            ""
            if len(verdict.opinions) == 1
            else f'<em title="place by {escape(opinion.model)}">#{opinion.ranks(p)[n]}</em>'
        )
        lines.append(
            f'<div class="rc-line"><span class="rc-score">{score:.2f}</span>'
            f"<span>{better}</span>{own if len(verdict.opinions) > 1 else ''}</div>"
            f"{bar(opinion, score, kind)}"
        )
    name = escape(verdict.images[n].name)
    winner = " rc-winner" if rank == 1 and len(verdict.images) > 1 else ""
    badge = f'<div class="rc-place">{rank}</div>' + ('<div class="rc-crown">best</div>' if winner else "")
    return (
        f'<figure class="rc-card{winner}" data-place="{rank}" data-name="{name}">'
        f'<div class="rc-frame">{_image(verdict, n)}{badge}</div>'
        f'<figcaption><div class="rc-file" title="{name}">{name}</div>'
        f"{''.join(lines)}</figcaption></figure>"
    )


def _compared(verdict: Verdict, p: int) -> str:
    """How far two models agree about a prompt."""
    if len(verdict.opinions) < 2 or len(verdict.images) < 2:
        return ""
    first, second = verdict.opinions
    alike, pairs = agreement(first, second, p)
    best = [opinion.ranks(p).index(1) for opinion in verdict.opinions]
    name = escape(verdict.images[best[1]].name)
    same = "Both put the same picture first" if best[0] == best[1] else (
        f"{escape(second.model)} would put <b>{name}</b> first"
    )  # fmt: skip
    return f'<p class="rc-compared">{same}; they order {alike} of {pairs} pairs alike.</p>'


def _glance(verdict: Verdict) -> str:
    """Images x prompts by the first model, each prompt's best marked."""
    opinion = verdict.opinions[0]
    heads = "".join(
        f'<th><span title="{escape(prompt)}">{escape(prompt)}</span></th>' for prompt in verdict.prompts
    )
    ranks = [opinion.ranks(p) for p in range(len(verdict.prompts))]
    count = len(verdict.images)
    order = sorted(range(count), key=lambda n: -sum(row[n] for row in opinion.scores))
    rows = []
    for n in order:
        cells = []
        for p, row in enumerate(opinion.scores):
            # Its place among the images, not its value: scores of different prompts compare loosely.
            tint = 100 * (count - ranks[p][n]) / max(1, count - 1)
            mark = ' class="rc-first-place"' if ranks[p][n] == 1 else ""
            cells.append(f'<td{mark} style="--tint:{tint:.0f}%">{row[n]:.2f}</td>')
        name = escape(verdict.images[n].name)
        rows.append(
            f'<tr><th>{_image(verdict, n)}<span title="{name}">{name}</span></th>{"".join(cells)}</tr>'
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
    return f"{table}<p>Percentiles: {escape(quantiles.source)}.</p>"


def _percent(percentile: float) -> str:
    return f"{percentile:.0f}%"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
