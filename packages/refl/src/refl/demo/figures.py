"""The demo's figures: images of all models, and rewards and truth over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from reward_core.demo.contact_sheet import contact_sheet
from reward_core.files.atomic_write import atomic_write
from reward_core.shapes import parse

from .recipe import HELD_OUT_REWARD, REWARD, TRUTH
from .scenes import draw
from .study import ScoredImages

ROWS = 10


def draw_grid(
    path: Path, prompts: Sequence[str], models: dict[str, ScoredImages], rows: int = ROWS, blocks: int = 2
) -> None:
    """Draw a PNG with the images of each model, one row per prompt.

    The last image of a row is a correct one.

    Args:
        path: file to write.
        prompts: prompts of the images.
        models: model name -> its images and scores for ``prompts``.
        rows: number of prompts to show.
        blocks: number of columns of rows.
    """
    grid_rows, rng = [], np.random.default_rng(0)
    for index in range(min(rows, len(prompts))):
        captions = [
            f"{name}: {scored.scores[TRUTH][index, 0]:.2f}\nreward {scored.scores[REWARD][index, 0]:+.2f}"
            for name, scored in models.items()
        ]
        images = [_image(scored.images[index]) for scored in models.values()]
        target = Image.fromarray(draw(parse(prompts[index]), rng))
        grid_rows.append((prompts[index], [*images, target], [*captions, "target"]))
    sheets = [contact_sheet(grid_rows[block::blocks]) for block in range(min(blocks, len(grid_rows)))]
    canvas = Image.new("RGB", (sum(sheet.width for sheet in sheets), max(p.height for p in sheets)), "white")
    left = 0
    for sheet in sheets:
        canvas.paste(sheet, (left, 0))
        left += sheet.width
    with atomic_write(path) as temporary:
        canvas.save(temporary, format="PNG")


def draw_curve(path: Path, curves: dict[str, list[dict[str, Any]]], saved_step: int | None = None) -> None:
    """Draw rewards (left axis) and truth (right axis) over steps as a PNG.

    Args:
        path: file to write.
        curves: run name -> validations (see ``validation_curve``).
        saved_step: step of the saved weights, marked by a line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5))
    right = axis.twinx()
    styles = dict(zip(curves, ("-", "--", ":")))
    for name, points in curves.items():
        steps = [point["step"] for point in points]
        for panel, key, color in ((axis, REWARD, "C0"), (axis, HELD_OUT_REWARD, "C1"), (right, TRUTH, "C2")):
            label = f"{key}, {name}"
            values = [point[key] for point in points]
            panel.plot(steps, values, styles[name], color=color, marker=".", label=label)
    if saved_step is not None:
        axis.axvline(saved_step, color="grey", linewidth=1, label="saved")
    axis.set_xlabel("step")
    axis.set_ylabel("rewards")
    right.set_ylabel("truth (the oracle's utility)")
    handles = [handle for panel in (axis, right) for handle in panel.get_legend_handles_labels()[0]]
    axis.legend(handles=handles, fontsize=7, loc="best")
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
