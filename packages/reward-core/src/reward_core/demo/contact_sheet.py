"""Draw a contact sheet: rows of captioned images under their prompts."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_CELL, _GAP, _TITLE, _CAPTION = 112, 10, 30, 40


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image], Sequence[str]]]) -> Image.Image:
    """Draw rows of (title, images, captions) and return an RGB image.

    Images are fitted into squares of 112 px; captions may have two lines.
    """
    columns = max(len(images) for _, images, _ in rows)
    row_height = _TITLE + _CELL + _CAPTION
    size = (_GAP + columns * (_CELL + _GAP), _GAP + len(rows) * (row_height + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    title_font, caption_font = ImageFont.load_default(18), ImageFont.load_default(13)
    for r, (title, images, captions) in enumerate(rows):
        top = _GAP + r * (row_height + _GAP)
        draw.text((_GAP, top), title, fill="black", font=title_font)
        for c, (image, caption) in enumerate(zip(images, captions)):
            left = _GAP + c * (_CELL + _GAP)
            # Small images are enlarged without smoothing, to show the pixels that were scored.
            zoom = min(_CELL / image.width, _CELL / image.height)
            fitted = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
            filter_ = Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS
            sheet.paste(image.convert("RGB").resize(fitted, filter_), (left, top + _TITLE))
            draw.multiline_text((left, top + _TITLE + _CELL + 3), caption, fill="#333333", font=caption_font)
    return sheet
