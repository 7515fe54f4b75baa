"""Write a matplotlib figure as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .atomic_write import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Draw a figure and write it as a PNG.

    Takes half the time of ``Figure.savefig``, which draws every figure twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
