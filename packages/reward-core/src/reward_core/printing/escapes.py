"""Escape text of others for where it is shown, so that it can neither hide, reorder nor run anything.

``printable`` is the base: it makes control characters visible. The other functions also escape what has a
meaning in their format. JSON and score files need none of them: they keep names and prompts exactly.
"""

from __future__ import annotations

import re
import unicodedata
from html import escape

# Controls (C0, DEL, C1), formats (bidi, zero-width, tags), unassigned characters, lone surrogates, line and
# paragraph separators.
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Cs", "Zl", "Zp"))
# Letters and marks without any ink, of which names can be made that nobody can see.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# Brackets alone, as of an interval, mean nothing without what follows a link's text.
_MARKDOWN = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Where a spreadsheet may begin a cell; those of some countries split at semicolons.
_CELL_ENDS = re.compile(r"([;\t\r\n])")
_QUOTES = "\"'`‘’“”«»"
_FORMULA_SIGNS = "=+-@"


def printable(text: object) -> str:
    r"""Return the text with control, format and blank characters as visible escapes, such as ``\x1b``.

    A newline becomes ``\n``, so the result is one line. Bytes of a file name that are not UTF-8 become
    ``\udc..``. All other characters, also of right-to-left scripts, stay.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def html_text(text: object) -> str:
    """Return the text as HTML that shows it, for elements and quoted attributes."""
    return escape(printable(text))


def markdown_text(text: object) -> str:
    """Return the text as Markdown that shows it, for a line or a table's cell."""
    return _MARKDOWN.sub(r"\\\g<0>", escape(printable(text), quote=False))


def markdown_code(text: object) -> str:
    """Return the text as a code span of Markdown."""
    shown = printable(text)
    fence = "`" * (_longest_run_of_backticks(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Return the lines of a text as a code block of Markdown, which ends with a newline."""
    shown = printable_lines(text.rstrip("\n"))
    fence = "`" * max(3, _longest_run_of_backticks(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}\n"


def python_string(text: str) -> str:
    """Return the text as a literal of Python in double quotes."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def chart_label(text: object) -> str:
    """Return the text as a label that matplotlib shows as it is: no formula, not hidden from legends."""
    shown = printable(text).replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def spreadsheet_cell(text: str) -> str:
    """Return the text with an apostrophe before what a spreadsheet would run as a formula.

    That is a text that begins with = + - @ (also their full-width forms), a tab or the end of a line, also
    behind spaces, quotes and invisible characters. The same holds behind a semicolon, tab or newline inside
    of it, where some spreadsheets begin a cell.
    """
    cells = _CELL_ENDS.split(text)  # with the separators between them
    cells[::2] = [f"'{cell}" if _is_formula(cell) else cell for cell in cells[::2]]
    joined = "".join(cells)
    space = text[: len(text) - len(text.lstrip())]
    return f"'{joined}" if {"\t", "\r", "\n"}.intersection(space) else joined


def _is_formula(cell: str) -> bool:
    """Return whether the first character that is no space, quote or hidden one begins a formula."""
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
