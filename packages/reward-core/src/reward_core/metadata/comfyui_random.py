"""ComfyUI nodes that pick part of a prompt at random while the graph runs.

The graph contains the template, "a {red|blue} house" or "a __color__ house". The prompt is known only if a
node stored the result. Otherwise it is an error.

ComfyUI's editor resolves "{red|blue}" before the graph is stored as "prompt", so braces in a plain encoder of
"prompt" are words. In "workflow", the format of the editor, they may be a template.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from ..errors import InputError

# Parts of class names, in lower case. Nodes that resolve templates or pick one of several texts:
CHOOSES = (
    "wildcard", "random", "dpcombinatorial", "dpjinja", "dpoutput", "dynamicprompt", "dynamic prompt",
    "gprompts", "shuffle", "oneof", "lottery", "mikey",
)  # fmt: skip
# Nodes that generate their text while they run:
INVENTS = ("dpmagic", "dpfeelinglucky", "onebutton", "one button", "promptgenerator", "prompt generator")
# Nodes that do not change texts:
LITERAL = ("encode", "primitive", "string", "showtext", "reroute", "note")
PICKS_LINES = ("promptline", "prompt line", "random line", "randomline", "line from", "text line", "textline")
INDEX = ("start_index", "line_number", "line_index", "index")

_WILDCARD = r"(?<!_)__[^\W_][\w\-./*\\ ]*?__|__\*+__"  # __color__, __hair/*__
_TEMPLATE = re.compile(rf"\{{[^{{}}|]*\|[^{{}}]*\}}|{_WILDCARD}|<(?:random|wildcard|wc):[^<>]*>")
_WILDCARD_ONLY = re.compile(_WILDCARD)
_BRACES = re.compile(r"[{}]|[^{}]+")
_NOT_WORDS = re.compile(r"__.+?__|<[^<>]*>|^[^\S\n]*#.*$", re.MULTILINE)


def has_template(text: str) -> bool:
    """Return whether a text has random parts: {red|blue}, {2$$red|blue}, __color__."""
    block = text.find("{%")
    has_block = block >= 0 and text.find("%}", block + 2) >= 0
    return has_block or _TEMPLATE.search(text) is not None


def is_named(kind: str, words: tuple[str, ...]) -> bool:
    """Return whether the name of a class contains one of the words."""
    return any(word in kind.lower() for word in words)


def refuse(kind: str) -> NoReturn:
    """Raise the error for an unknown text."""
    raise InputError(f"its graph picks part of the prompt at random ({kind}). Give the prompt")


def populated(kind: str, inputs: dict[str, Any]) -> str | None:
    """Return the text that a wildcard node stored with its template, or None.

    Raises:
        InputError: the field is empty, or has the text of an earlier run or of another template.
    """
    text, template = inputs.get("populated_text"), inputs.get("wildcard_text")
    if not isinstance(text, str):
        return None
    filled = inputs.get("mode") not in (True, "populate")  # the text is used unchanged
    if not text.strip():
        if filled or (isinstance(template, str) and not template.strip()):
            return ""
        refuse(kind)
    if has_template(text):
        refuse(kind)
    if isinstance(template, str) and not filled and not _words(template) <= _words(text):
        refuse(kind)  # the text belongs to another template
    return text.strip()


def check(kind: str, inputs: dict[str, Any], text: str | None) -> str | None:
    """Return the text of a node after checking that it has no random parts.

    Raises:
        InputError: the text has random parts.
    """
    if is_named(kind, INVENTS):
        refuse(kind)
    several = len({value for value in inputs.values() if isinstance(value, str) and value.strip()}) > 1
    if "random" in kind.lower() and several and not kind.startswith("DP"):
        refuse(kind)
    if text is None:
        return None
    if is_named(kind, PICKS_LINES):
        return _line(kind, inputs, text)
    if is_named(kind, CHOOSES) and (
        has_template(text) or ("random" in kind.lower() and _is_list(kind, text))
    ):
        refuse(kind)
    return text


def refuse_templates(kind: str, inputs: dict[str, Any]) -> None:
    """Raise InputError for a template in a node that may resolve it.

    In nodes that do not change texts, only "__color__" is a template: extensions often replace these nodes.
    """
    literal = is_named(kind, LITERAL) and not is_named(kind, CHOOSES)
    matches = _WILDCARD_ONLY.search if literal else has_template
    for name, value in inputs.items():
        if isinstance(value, str) and not str(name).startswith("neg") and matches(value):
            refuse(kind)


def _is_list(kind: str, text: str) -> bool:
    """Return whether a text may be a list from which a node picks an item."""
    return not kind.startswith("DP") and any(sign in text for sign in "\n,;|")


def _line(kind: str, inputs: dict[str, Any], text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        return lines[0]
    index = next((inputs[name] for name in INDEX if type(inputs.get(name)) is int), None)
    if index is None or "random" in kind.lower() or inputs.get("max_rows", 1) != 1 or index >= len(lines):
        refuse(kind)
    return lines[index]


def _words(template: str) -> set[str]:
    """Return the words outside of random parts."""
    kept: list[str] = []
    opened: list[int] = []  # index in `kept` of each open brace
    for part in _BRACES.findall(template):
        if part == "{":
            opened.append(len(kept))
        elif part == "}" and opened:
            del kept[opened.pop() :]
            part = " "
        kept.append(part)
    return set(re.findall(r"[^\W\d_]+", _NOT_WORDS.sub(" ", "".join(kept)).lower()))
