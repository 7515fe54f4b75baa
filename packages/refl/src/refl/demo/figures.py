"""The demo's figures: images of all models, and curves over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from reward_core.demo.contact_sheet import contact_sheet
from reward_core.files.atomic_write import atomic_write
from reward_core.files.figure_file import write_figure
from reward_core.shapes import parse

from .recipe import HELD_OUT_REWARD, REWARD, TRUTH
from .scenes import draw
from .study import ScoredImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 10
# title of a panel -> key of a validation -> color
PANELS = {
    "reward": {REWARD: "C0", HELD_OUT_REWARD: "C1"},
    "truth (utility)": {TRUTH: "C2"},
    "diversity": {"diversity": "C3"},
}


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
    """Draw rewards, truth and diversity over steps as a PNG (see ``curve_figure``)."""
    write_figure(curve_figure(curves, saved_step), path)


def curve_figure(curves: dict[str, list[dict[str, Any]]], saved_step: int | None = None) -> Figure:
    """Return a figure with a panel each for rewards, truth and diversity over steps.

    Args:
        curves: run name -> validations (see ``validation_curve``).
        saved_step: step of the saved weights, marked by a line.
    """
    from matplotlib.figure import Figure  # without pyplot, which needs a display and global state

    figure = Figure((8, 8), layout="constrained")
    heights = [len(keys) + 1 for keys in PANELS.values()]
    axes = figure.subplots(len(PANELS), 1, sharex=True, height_ratios=heights)
    styles = dict(zip(curves, ("-", "--", ":")))
    for axis, (title, keys) in zip(axes, PANELS.items()):
        for name, points in curves.items():
            steps = [point["step"] for point in points]
            for key, color in keys.items():
                values = [point[key] for point in points]
                axis.plot(steps, values, styles[name], color=color, marker=".", label=f"{name}: {key}")
        if saved_step is not None:
            axis.axvline(saved_step, color="gray", linewidth=1, label="saved weights")
        axis.set_ylabel(title, fontsize=11)
        axis.tick_params(labelsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(lines.values(), lines, fontsize=10, loc="outside upper center", ncols=3, frameon=False)
    axes[-1].set_xlabel("step", fontsize=11)
    return figure


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
