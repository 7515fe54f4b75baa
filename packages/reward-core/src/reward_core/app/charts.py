"""Draw bars and distributions as HTML and SVG; style.css defines their colors."""

from __future__ import annotations

import numpy as np

from ..printing.axis_ticks import axis_ticks
from ..printing.escapes import html_text
from .image_ranking import ModelRanking

WIDTH, HEIGHT = 480, 230  # view box of a distribution; it is scaled to the width of the page
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 34, 34


def score_axis(model_ranking: ModelRanking) -> tuple[float, float]:
    """Return (low, high), the range of scores of bars and distributions.

    It includes all displayed scores and, if known, nearly all reference scores.
    """
    scores = [score for row in model_ranking.scores for score in row]
    if model_ranking.quantiles:
        values = model_ranking.quantiles.values
        low, high = min([values[0], *scores]), max([values[-1], *scores])
    else:
        low, high = min(scores), max(scores)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def bar(model_ranking: ModelRanking, score: float, kind: str) -> str:
    """Return a bar whose length is the score on its model's axis, with a tick at the reference median."""
    low, high = score_axis(model_ranking)
    share = 100 * (score - low) / (high - low)
    tick = ""
    if model_ranking.quantiles:
        middle = model_ranking.quantiles.values[len(model_ranking.quantiles.values) // 2]
        tick = f'<i style="left:{100 * (middle - low) / (high - low):.1f}%" title="median"></i>'
    return f'<div class="rc-bar rc-{kind}"><b style="width:{share:.1f}%"></b>{tick}</div>'


def distribution(model_ranking: ModelRanking, kind: str) -> str:
    """Return an SVG of the distribution of a model's scores, with ticks at the scores of the images.

    Without reference scores it has only the ticks.
    """
    scores = [score for row in model_ranking.scores for score in row]
    low, high = score_axis(model_ranking) if model_ranking.quantiles or scores else (-3.0, 3.0)
    floor = HEIGHT - BOTTOM

    def x(score: float) -> float:
        return LEFT + (score - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="rc-chart rc-{kind}" role="img" ']
    parts.append(f'aria-label="distribution of the scores of {html_text(model_ranking.model)}">')
    if model_ranking.quantiles:
        grid = np.linspace(low, high, 121)
        height = density(np.array(model_ranking.quantiles.values), grid)
        ys = floor - (floor - TOP) * height / height.max()
        line = " L".join(f"{x(score):.1f},{y:.1f}" for score, y in zip(grid, ys))
        parts.append(f'<path class="rc-area" d="M{x(low):.1f},{floor} L{line} L{x(high):.1f},{floor} Z"/>')
    for tick in axis_ticks(low, high):
        parts.append(f'<line class="rc-grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="rc-label" x="{x(tick):.1f}" y="{HEIGHT - 12}">{tick:g}</text>')
    parts.append(f'<line class="rc-floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for score in scores:
        parts.append(
            f'<line class="rc-tick" x1="{x(score):.1f}" x2="{x(score):.1f}" y1="{floor - 16}" y2="{floor}"/>'
        )
    for row in model_ranking.scores:
        best = max(row)
        parts.append(f'<circle class="rc-best" cx="{x(best):.1f}" cy="{floor - 20}" r="5"/>')
    if len(model_ranking.scores) == 1:
        best = max(model_ranking.scores[0])
        anchor = "end" if x(best) > WIDTH * 0.6 else "start"
        parts.append(
            f'<text class="rc-name" text-anchor="{anchor}" x="{x(best):.1f}" y="{TOP - 14}">'
            f"your best: {best:.2f}</text>"
            f'<line class="rc-lead" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{TOP - 8}" y2="{floor - 26}"/>'
        )
    return "".join([*parts, "</svg>"])


def density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a Gaussian kernel density (G,) at the scores of a grid, from evenly spaced quantiles (V,)."""
    width = 0.6 * values.std() * len(values) ** -0.2  # below Scott's rule, so that two modes stay separate
    return np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(1)
