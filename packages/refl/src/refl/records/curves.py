"""Learning curves of a run: what they show, and a PNG file of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reward_core.files.figure_file import write_figure
from reward_core.printing.escapes import chart_label

from .samples import Samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 200  # of a line; longer ones are averaged
_INK, _TRAINING, _VALIDATION = "#22303c", "#1b6b8f", "#d1661f"
_OTHERS = {
    "validation/diversity": "diversity in validation",
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "zero_gradient": "share of images with zero gradient",
    "nft/r": "nft: mean r (near 0.5)",
    "nft/old_distance": "nft: squared distance to the old weights",
    "grpo/ratio": "grpo: mean ratio of probabilities",
    "grpo/clipped": "grpo: share of clipped ratios",
    "grpo/log_ratio": "grpo: mean change of the log-probability",
    **{
        f"{name}/{kind}_groups": f"{name}: share of {text}"
        for name in ("nft", "grpo")
        for kind, text in (("constant", "groups with equal rewards"), ("skipped", "skipped groups"))
    },
}

_GROUP_STD = "/group_std"
_SPREADS = ("/std", _GROUP_STD)

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of a panel: (step, value, half width of its band; NaN for none) of each point."""

    label: str
    points: Sequence[tuple[float, float, float]]
    color: str = _TRAINING
    marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines that share an axis, because they have one unit."""

    title: str
    lines: Sequence[Line]


def panels_of(rows: Sequence[Row], samples: Sequence[Samples] = ()) -> list[Panel]:
    """Return the panels of a run: one for each reward, then diversity, losses and gradient.

    The band of a reward in training is its standard deviation over the images of a step. That of a reward in
    validation is the 95% interval over prompts.

    Args:
        rows: the metrics of the run, one dict per line of metrics.jsonl.
        samples: the validations whose images are kept.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    rewards = dict.fromkeys(
        name.split("/", 1)[1]
        for name in names
        if name.startswith(("reward/", "validation/")) and not name.endswith(_SPREADS)
    )
    rewards.pop("diversity", None)
    panels = [Panel(name, _reward_lines(name, rows, samples)) for name in rewards]
    for name in names:
        if title := _title(name):
            marked = name.startswith("validation/")
            color = _VALIDATION if marked else _TRAINING
            panels.append(Panel(title, [Line("", _thinned(_series(rows, name)), color, marked)]))
    return [panel for panel in panels if any(line.points for line in panel.lines)]


def _title(name: str) -> str:
    """Return the title of the panel of a metric other than a reward; "" if it has none."""
    if name.startswith("reward/") and name.endswith(_GROUP_STD):
        return f"{name.removeprefix('reward/').removesuffix(_GROUP_STD)}: deviation within a prompt"
    if name.startswith("srpo/"):
        return f"{name.removeprefix('srpo/')}: difference between positive and negative words"
    return _OTHERS.get(name, name.replace("/", ": ", 1) if name.startswith("loss/") else "")


def draw_curves(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels in two columns as a PNG; nothing is written without panels."""
    if not panels:
        return
    from matplotlib.figure import Figure  # without pyplot, which needs a display and global state

    rows = math.ceil(len(panels) / 2)
    # Each panel is 2.1 inches high. Fixed margins are drawn in 0.6 of the time of a computed layout.
    height = 2.75 * rows
    figure = Figure((11, height))
    axes = figure.subplots(rows, 2, squeeze=False).ravel().tolist()
    figure.subplots_adjust(0.065, 0.5 / height, 0.985, 1 - 0.35 / height, wspace=0.16, hspace=0.7 / 2.1)
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes, panels):
        _draw(axis, panel)
    write_figure(figure, path)


def _reward_lines(name: str, rows: Sequence[Row], samples: Sequence[Samples]) -> list[Line]:
    intervals = {s.step: s.interval(name)[1] for s in samples if name in s.rewards}
    held = [
        (step, value, intervals.get(int(step), math.nan))
        for step, value, _ in _series(rows, f"validation/{name}")
    ]
    training = _series(rows, f"reward/{name}", f"reward/{name}/std")
    return [
        Line("training", _thinned(training)),
        Line("validation", held, _VALIDATION, marked=True),
    ]


def _series(rows: Sequence[Row], name: str, band: str = "") -> list[tuple[float, float, float]]:
    """Return (step, value, half width) of every row with a finite value."""
    points = ((row["step"], row[name], row.get(band, math.nan)) for row in rows if name in row)
    return [point for point in points if point[1] is not None and math.isfinite(point[1])]


def _thinned(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return at most 200 points, each the mean of neighbors."""
    size = math.ceil(len(points) / _POINTS) or 1
    return [_mean(points[i : i + size]) for i in range(0, len(points), size)]


def _mean(points: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    step, value, band = (fmean(values) for values in zip(*points))
    return step, value, band


def _draw(axis: Axes, panel: Panel) -> None:
    lines = [line for line in panel.lines if line.points]
    for line in lines:
        steps, values, bands = zip(*line.points)
        marker = "o" if line.marked or len(values) == 1 else None
        axis.plot(
            steps, values, color=line.color, marker=marker, markersize=4, linewidth=1.4, label=line.label
        )
        low, high = ([v + sign * b for v, b in zip(values, bands)] for sign in (-1, 1))
        if line.marked:
            axis.vlines(steps, low, high, color=line.color, linewidth=1)
        elif any(map(math.isfinite, bands)):
            axis.fill_between(steps, low, high, color=line.color, alpha=0.15, linewidth=0)
    axis.set_title(chart_label(panel.title), fontsize=11, color=_INK)
    axis.set_xlabel("step", fontsize=10, color=_INK)
    axis.tick_params(labelsize=9, colors=_INK)
    axis.locator_params(nbins=5)  # ticks take most of the time of a drawing
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    if len(lines) > 1:
        axis.legend(fontsize=9, frameon=False, loc="best")
