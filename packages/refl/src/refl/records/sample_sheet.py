"""A sheet of a validation's images with prompts, rewards and step; the base model's beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from reward_core.files.atomic_write import atomic_write
from reward_core.printing.escapes import printable

from .samples import Samples

CELL = 224  # pixels of an image's longer side
MOST_PROMPTS, MOST_SEEDS = 16, 3
_GAP, _TEXT, _LINE = 10, 13, 17
_PAPER, _INK, _SOFT = "#ffffff", "#22303c", "#5b6b78"


def draw_sheet(run: Path, samples: Samples, base: Samples | None, path: Path) -> None:
    """Draw the images of a validation as a PNG: a row for each prompt, base and current images in turns.

    The first 16 prompts and 3 seeds are shown, each image at most 224 pixels wide and high.

    Args:
        run: folder of the run, which has the images.
        samples: the current images.
        base: the images of the base model, drawn to the left of the current ones; None leaves them out.
        path: file to write.
    """
    shown = [samples] if base is None or base.step == samples.step else [base, samples]
    prompts, seeds = min(len(samples.prompts), MOST_PROMPTS), min(samples.seeds, MOST_SEEDS)
    width, height = _cell_size(samples.image_file(run, 0, 0))
    cell_width = max(width, CELL)  # of captions too
    columns = len(shown) * seeds
    sheet_width = columns * (cell_width + _GAP) + _GAP
    titles = [_wrapped(prompt, sheet_width - 2 * _GAP) for prompt in samples.prompts[:prompts]]
    captions = 1 + len(samples.rewards)
    row_heights = [len(title) * _LINE + height + captions * _LINE + 2 * _GAP for title in titles]
    sheet = Image.new("RGB", (sheet_width, sum(row_heights) + _GAP), _PAPER)
    draw, top = ImageDraw.Draw(sheet), _GAP
    for prompt, (title, row_height) in enumerate(zip(titles, row_heights)):
        draw.text((_GAP, top), "\n".join(title), _INK, _font(), spacing=_LINE - _TEXT)
        below = top + len(title) * _LINE + 4
        for column in range(columns):
            seed, version = divmod(column, len(shown))
            left = _GAP + column * (cell_width + _GAP)
            source = shown[version]
            sheet.paste(_thumbnail(source.image_file(run, prompt, seed), (width, height)), (left, below))
            text = "\n".join(_caption(source, shown[0], prompt * samples.seeds + seed))
            draw.text((left, below + height + 2), text, _SOFT, _font(), spacing=_LINE - _TEXT)
        top += row_height
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def _caption(samples: Samples, base: Samples, index: int) -> list[str]:
    """Return step and rewards of an image, with their changes."""
    lines = ["base" if samples.step == 0 else f"step {samples.step}"]
    for name, values in samples.rewards.items():
        line = f"{printable(name)[:18]} {values[index]:.2f}"
        if samples.step != base.step and name in base.rewards:
            line += f" ({values[index] - base.rewards[name][index]:+.2f})"
        lines.append(line)
    return lines


def _cell_size(path: Path) -> tuple[int, int]:
    """Return the size of images on the sheet; small ones are enlarged by a whole number."""
    with Image.open(path) as image:
        width, height = image.size
    longer = max(width, height)
    scale = CELL // longer if longer <= CELL else CELL / longer
    return max(1, round(width * scale)), max(1, round(height * scale))


def _thumbnail(path: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(path) as image:
        method = Image.Resampling.NEAREST if image.width <= size[0] else Image.Resampling.LANCZOS
        return image.convert("RGB").resize(size, method)


def _wrapped(prompt: str, width: int) -> Sequence[str]:
    """Return at most three lines of a prompt."""
    characters = max(20, int(width / (_TEXT * 0.56)))
    return textwrap.wrap(printable(prompt), characters, max_lines=3, placeholder=" …") or [""]


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib installs."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _TEXT)
