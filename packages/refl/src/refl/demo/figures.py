"""The demo's images: before and after under their prompts, and learned reward beside truth over steps."""

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

from .recipe import JUDGE, REWARD, TRUTH
from .study import Judged
from .world import draw

ROWS = 10


def draw_grid(
    path: Path, prompts: Sequence[str], models: dict[str, Judged], rows: int = ROWS, blocks: int = 2
) -> None:
    """A PNG of the first prompts: the images of every model with truth and reward, then one as meant."""
    sheet, rng = [], np.random.default_rng(0)
    for number in range(min(rows, len(prompts))):
        captions = [
            f"{name}: {judged.scores[TRUTH][number, 0]:.2f}\nreward {judged.scores[REWARD][number, 0]:+.2f}"
            for name, judged in models.items()
        ]
        images = [_image(judged.images[number]) for judged in models.values()]
        meant = Image.fromarray(draw(parse(prompts[number]), rng))
        sheet.append((prompts[number], [*images, meant], [*captions, "as meant"]))
    whole = [contact_sheet(sheet[block::blocks]) for block in range(min(blocks, len(sheet)))]
    canvas = Image.new("RGB", (sum(part.width for part in whole), max(p.height for p in whole)), "white")
    left = 0
    for part in whole:
        canvas.paste(part, (left, 0))
        left += part.width
    with atomic_write(path) as temporary:
        canvas.save(temporary, format="PNG")


def draw_curve(path: Path, curves: dict[str, list[dict[str, Any]]], kept_step: int | None = None) -> None:
    """A PNG: learned reward and second reward (left axis) and truth (right axis) at each validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5))
    right = axis.twinx()
    styles = dict(zip(curves, ("-", "--", ":")))
    for name, points in curves.items():
        steps = [point["step"] for point in points]
        for panel, key, color in ((axis, REWARD, "C0"), (axis, JUDGE, "C1"), (right, TRUTH, "C2")):
            label = f"{key}, {name}"
            values = [point[key] for point in points]
            panel.plot(steps, values, styles[name], color=color, marker=".", label=label)
    if kept_step is not None:
        axis.axvline(kept_step, color="grey", linewidth=1, label="kept")
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
