"""The text cleaning of open_clip, which HPSv2 applies before it tokenizes a prompt."""

from __future__ import annotations

import html

from ...files.limits import MAX_PROMPT_CHARACTERS


def clean_text(text: str) -> str:
    """Return a prompt as open_clip's tokenizer reads it.

    ftfy repairs wrongly decoded text and replaces curly quotes, ligatures and full-width letters. HTML
    entities are unescaped twice, blanks are collapsed, and letters become lowercase. Text beyond
    MAX_PROMPT_CHARACTERS, which no model reads, is cut off.
    """
    import ftfy

    text = ftfy.fix_text(text[: MAX_PROMPT_CHARACTERS.value])
    return " ".join(html.unescape(html.unescape(text)).split()).lower()
