"""Charts as SVG text, for embedding in an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from reward_core.printing.escapes import chart_label

from .results import Agreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _LOW, _HIGH = "#22303c", "#dfe9ef", "#1b6b8f"


def distribution_chart(scores: dict[str, dict[str, list[float]]]) -> str:
    """Return box plots as SVG, with one panel per scorer and one box per generator.

    Boxes show median and quartiles; whiskers show the 5th and 95th percentile.

    Args:
        scores: scorer -> generator -> scores.
    """
    count = max(1, len(scores))
    figure, axes = _figure(3.1 * count, 0.6 + 0.28 * max(2, max(map(len, scores.values()))), count)
    for i, (axis, (scorer, by_label)) in enumerate(zip(axes, scores.items())):
        labels = [label for label, values in by_label.items() if values]
        axis.boxplot(
            [by_label[label] for label in labels],
            orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6,
            boxprops={"facecolor": _LOW, "edgecolor": _INK, "linewidth": 0.7},
            medianprops={"color": _HIGH, "linewidth": 1.8},
        )  # fmt: skip
        names = list(map(chart_label, labels))
        axis.set_yticks(range(1, len(labels) + 1), names if i == 0 else [""] * len(labels))
        axis.invert_yaxis()
        axis.set_title(chart_label(scorer), fontsize=9, color=_INK)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def agreement_chart(scorers: list[str], agreement: Sequence[Agreement]) -> str:
    """Return the Spearman correlations between scorers as SVG; "" for one scorer."""
    if len(scorers) < 2:
        return ""
    matrix = np.full((len(scorers), len(scorers)), np.nan)
    np.fill_diagonal(matrix, 1)
    for pair in agreement:
        a, b = scorers.index(pair.first), scorers.index(pair.second)
        matrix[a, b] = matrix[b, a] = pair.spearman
    from matplotlib.colors import LinearSegmentedColormap

    figure, (axis,) = _figure(1.5 + 0.8 * len(scorers), 0.9 + 0.5 * len(scorers), 1)
    axis.imshow(
        matrix, vmin=0, vmax=1, aspect="auto", cmap=LinearSegmentedColormap.from_list("", ["white", _HIGH])
    )
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value > 0.6 else _INK
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    names = list(map(chart_label, scorers))
    axis.set_xticks(range(len(scorers)), names, fontsize=8, rotation=20, ha="right")
    axis.set_yticks(range(len(scorers)), names, fontsize=8)
    return _svg(figure)


def _figure(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # without pyplot, which needs a display and global state

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    text = StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "reward-benchmark", "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]
