"""Escapes for untrusted text, so that it cannot hide, reorder or run anything.

``printable`` makes control characters visible. The other functions also escape the special characters of a
format. JSON and score files use none of them, because they store names and prompts exactly.
"""

from __future__ import annotations

import re
import unicodedata
from html import escape

# Controls (C0, DEL, C1), formats (bidi, zero-width, tags), unassigned characters, lone surrogates, line and
# paragraph separators.
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Cs", "Zl", "Zp"))
# Letters and marks that are invisible.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# A closing bracket is special only if it can end the text of a link.
_MARKDOWN = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Separators of cells in a spreadsheet; some locales use semicolons.
_CELL_ENDS = re.compile(r"([;\t\r\n])")
_QUOTES = "\"'`‘’“”«»"
_FORMULA_SIGNS = "=+-@"


def printable(text: object) -> str:
    r"""Return the text with control, format and blank characters escaped (``\x1b``).

    A newline becomes ``\n``, so the result is one line. Bytes of a file name that are not UTF-8 become
    ``\udc..``. All other characters stay, including right-to-left scripts.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines with each line escaped by ``printable``."""
    return "\n".join(map(printable, text.split("\n")))


def html_text(text: object) -> str:
    """Return the text escaped for HTML elements and quoted attributes."""
    return escape(printable(text))


def markdown_text(text: object) -> str:
    """Return the text escaped for a line or a table cell of Markdown."""
    return _MARKDOWN.sub(r"\\\g<0>", escape(printable(text), quote=False))


def markdown_code(text: object) -> str:
    """Return the text as a code span of Markdown."""
    code = printable(text)
    fence = "`" * (_longest_run_of_backticks(code) + 1)
    pad = " " if code.startswith("`") or code.endswith("`") else ""
    return f"{fence}{pad}{code}{pad}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Return the lines of a text as a code block of Markdown, with a final newline."""
    code = printable_lines(text.rstrip("\n"))
    fence = "`" * max(3, _longest_run_of_backticks(code) + 1)
    return f"{fence}{language}\n{code}\n{fence}\n"


def python_string(text: str) -> str:
    """Return the text as a Python string literal in double quotes."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def chart_label(text: object) -> str:
    """Return the text as a matplotlib label, without formulas and shown in legends."""
    label = printable(text).replace("$", "\\$")
    return f" {label}" if label.startswith("_") else label


def spreadsheet_cell(text: str) -> str:
    """Return the text with an apostrophe before anything that may be a formula.

    Formulas begin with = + - @ (or their full-width forms), a tab or a line end, also after spaces, quotes
    and invisible characters. They can also begin after a semicolon, tab or newline in the text, where some
    spreadsheets start a new cell.
    """
    cells = _CELL_ENDS.split(text)  # with the separators between them
    cells[::2] = [f"'{cell}" if _is_formula(cell) else cell for cell in cells[::2]]
    joined = "".join(cells)
    space = text[: len(text) - len(text.lstrip())]
    return f"'{joined}" if {"\t", "\r", "\n"}.intersection(space) else joined


def _is_formula(cell: str) -> bool:
    """Return whether the first visible character, apart from quotes, begins a formula."""
    for character in cell:
        if not (character.isspace() or character in _QUOTES or _visible(character) != character):
            return unicodedata.normalize("NFKC", character)[0] in _FORMULA_SIGNS
    return False


def _visible(character: str) -> str:
    if character not in _BLANK and unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    number = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if number < 256:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 2**16 else f"\\U{number:08x}"


def _longest_run_of_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
