"""The contact sheet of docs/shapesbench.md, and the oracle's speed and accuracy."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from reward_core import shapes
from reward_core.demo.contact_sheet import contact_sheet

from .record import last_json, run_python, save_png

PROMPT = "a big red circle left of a small blue square"
TITLE = f"{PROMPT}: the true utility, and the oracle's"
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def graded(title: str, *faults: str) -> tuple[str, list[Image.Image], list[str]]:
    """Return a row with the same image under increasingly strong faults of each kind."""
    scene = shapes.parse(PROMPT)
    images, captions = [], []
    for seed, kind in enumerate(faults):
        for strength in STRENGTHS:
            rendered = shapes.make_image(scene, np.random.default_rng(seed), [shapes.Fault(kind, strength)])
            read = shapes.oracle(rendered.pixels, scene)
            images.append(Image.fromarray(rendered.pixels))
            name = f"{kind.replace('_', ' ').replace('colour', 'color')} {strength:g}"
            captions.append(f"{name}\n{rendered.truth.utility:.2f}, read {read.utility:.2f}")
    return title, images, captions


def foreign(title: str) -> tuple[str, list[Image.Image], list[str]]:
    """Return a row of images that the renderer did not draw."""
    scene = shapes.parse(PROMPT)
    clean = Image.fromarray(shapes.render_scene(scene, np.random.default_rng(1)))
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    clouds = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC), float) - 128
    file = BytesIO()
    clean.save(file, "JPEG", quality=70)
    stripes = np.full((64, 64, 3), 230, np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = shapes.PALETTE["red"]
    stripes[::8] = shapes.PALETTE["blue"]
    tiles = Image.new("RGB", (64, 64))
    for x in range(0, 64, 32):
        for y in range(0, 64, 32):
            tiles.paste(clean.resize((32, 32), Image.Resampling.LANCZOS), (x, y))
    images = {
        "as drawn": clean,
        "JPEG 70": Image.open(file).convert("RGB"),
        "64 to 48 to 64": clean.resize((48, 48)).resize((64, 64)),
        "pale": Image.blend(Image.new("RGB", (64, 64), (230,) * 3), clean, 0.4),
        "mirrored": clean.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "clouds on top": Image.fromarray(np.clip(np.asarray(clean) + 0.2 * clouds, 0, 255).astype(np.uint8)),
        "four copies": tiles,
        "stripes": Image.fromarray(stripes),
        "clouds": Image.fromarray((clouds + 128).astype(np.uint8)),
        "noise": Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)),
        "white": Image.new("RGB", (64, 64), "white"),
        "red": Image.new("RGB", (64, 64), shapes.PALETTE["red"]),
    }
    captions = [f"{name}\nread {shapes.oracle(image, scene).utility:.2f}" for name, image in images.items()]
    return title, list(images.values()), captions


def draw() -> str:
    """Draw shapesbench.png."""
    rows = [
        graded(TITLE, "wrong_colour", "wrong_shape", "wrong_size"),
        graded("", "extra", "wrong_relation", "cut_off"),
        graded("", "blur", "noise", "jpeg"),
        graded("", "low_contrast", "colour_cast"),
        foreign("The same prompt, images from elsewhere"),
    ]
    return save_png(contact_sheet(rows), "shapesbench.png")


def make() -> dict[str, Any]:
    """Draw shapesbench.png; measure the oracle's accuracy and its speed on one core."""
    return {"images": [draw()]} | last_json(run_python("tools/bench_shapes.py"))
