"""The learning curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reward_core.files.atomic_write import atomic_write
from reward_core.printing.escapes import chart_label


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the learning curves of a run as a PNG.

    Args:
        rows: the metrics of the run, one dict per line of metrics.jsonl.
        path: file to write; not written if no metric has a panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for row in rows for name in row})
    panels = {
        "rewards in training": [n for n in names if n.startswith("reward/")],
        "rewards in validation": [
            n for n in names if n.startswith("validation/") and n != "validation/diversity"
        ],
        "loss": [n for n in names if n == "loss" or n.startswith("loss/")],
        "gradient norm": ["gradient_norm"],
        "share of images with zero gradient": ["zero_gradient"],
        "diversity": ["validation/diversity"],
    }
    panels = {title: series for title, series in panels.items() if any(n in names for n in series)}
    if not panels:
        return
    # Each panel is 1.85 inches high, with 0.3 above and 0.45 below. Fixed margins are drawn in 0.6 of
    # the time of a computed layout.
    height = 2.6 * len(panels)
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, height), squeeze=False)
    figure.subplots_adjust(0.1, 0.45 / height, 0.98, 1 - 0.3 / height, hspace=0.75 / 1.85)
    for axis, (title, series) in zip(axes[:, 0], panels.items()):
        for name in series:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                marker = "o" if name.startswith("validation/") else None
                axis.plot(*zip(*points), marker=marker, label=chart_label(name.split("/", 1)[-1]))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if len(series) > 1 or "rewards" in title:
            axis.legend(fontsize=7)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)
