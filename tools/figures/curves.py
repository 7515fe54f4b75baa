"""Curves of finished runs, drawn from their records in docs/results."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from refl.demo.figures import draw_curve

from .record import RESULTS, save_png


def numbers_of(name: str) -> Any:
    """Return the numbers of docs/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["numbers"]


def make() -> dict[str, list[str]]:
    """Draw refl_curve.png and reward_hacking_curves.png from the records of their runs."""
    demo, hacking = numbers_of("refl_demo_seed_0"), numbers_of("refl_hacking")
    drawn = {
        "refl_curve.png": (demo["curves"], demo["stopped_step"]),
        "reward_hacking_curves.png": ({"none": hacking["curves"]["none"]}, None),
    }
    images = []
    with TemporaryDirectory() as folder:
        for name, (curves, saved_step) in drawn.items():
            draw_curve(Path(folder, name), curves, saved_step)
            with Image.open(Path(folder, name)) as image:
                images.append(save_png(image, name))
    return {"images": images}
