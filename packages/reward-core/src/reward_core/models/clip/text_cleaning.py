"""The text cleaning of open_clip, which HPSv2 applies before it tokenizes a prompt."""

from __future__ import annotations

import html

from ...files.limits import MAX_PROMPT_CHARACTERS

# ftfy takes 20 microseconds a line, and every line with text has at least one of the 77 tokens that are read.
MAX_LINES = 10_000


def clean_text(text: str) -> str:
    """Return a prompt as open_clip's tokenizer reads it.

    ftfy repairs wrongly decoded text, line by line, and replaces curly quotes, ligatures and full-width
    letters. HTML entities are unescaped twice, blanks are collapsed, and letters become lowercase. Text
    beyond MAX_PROMPT_CHARACTERS or MAX_LINES, which no model reads, is cut off.
    """
    import ftfy

    lines = [line for line in text[: MAX_PROMPT_CHARACTERS.value].split("\n") if line.strip(" \t\r\f\v")]
    text = ftfy.fix_text("\n".join(lines[:MAX_LINES]))
    return " ".join(html.unescape(html.unescape(text)).split()).lower()
