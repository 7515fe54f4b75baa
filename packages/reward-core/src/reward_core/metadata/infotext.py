"""AUTOMATIC1111's infotext: prompt, negative prompt and a line of settings.

The format is defined in the WebUI (modules/infotext_utils.py). The WebUI treats any last line of three fields
as settings. This module requires that the line begins with a field and has the steps, because "subject: cat,
style: oil, mood: dark" is a prompt, and JSON that contains an infotext is not an infotext. Extensions add
lines ("Template: ...") after the settings.
"""

from __future__ import annotations

import re

from ..files.limits import MAX_PROMPT_TEXT

# Takes linear time: a field does not begin inside a word or inside spaces, and its name has at most 100
# characters.
_FIELD = re.compile(r'(?:(?<!\s)\s+|(?<![\w\s]))(\w[\w \-/.()]{0,99}?):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_NEGATIVE = re.compile(r"^negative prompt:", re.IGNORECASE)
_NETWORK = re.compile(r"<\w+:[^<>]*>")  # <lora:name:0.8>, <hypernet:...>
_EMBEDDING = re.compile(r"\bembedding:[^\s,()]+")  # in ComfyUI
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*$")
_WHEN = re.compile(r"\s*(?:\d+(?:\.\d+)?|\.\d+)\s*")  # last part of [before:after:when]
_WORDS = re.compile(r"[^\\()\[\]:|]+")


def split(text: str) -> tuple[str, dict[str, str]] | None:
    """Return (prompt, settings) of an infotext, or None without a line of settings."""
    parts = _settings_line(text)
    return None if parts is None else (without_negative(parts[0]), fields(parts[1]))


def without_negative(text: str) -> str:
    """Return the text before a line "Negative prompt: ..."."""
    rows = text.split("\n")
    end = next((i for i, row in enumerate(rows) if _NEGATIVE.match(row.strip())), len(rows))
    return "\n".join(rows[:end]).strip()


def get(text: str, key: str) -> str | None:
    """Return the value of a setting, or None if the text does not have it."""
    parts = split(text)
    return None if parts is None else parts[1].get(key)


def put(text: str, key: str, value: str) -> str | None:
    """Return the infotext with a setting at the end, or None without settings.

    An old value of the setting is removed.
    """
    parts = _settings_line(text)
    if parts is None:
        return None
    body, line, tail = parts
    old = [match for match in _FIELD.finditer(line) if match[1] == key]
    ends = [0, *(match.end() for match in old)]
    starts = [*(match.start() for match in old), len(line)]
    kept = [line[end:start] for end, start in zip(ends, starts)]
    line = "".join(kept) if kept[-1].strip() else "".join(kept).rstrip().removesuffix(",")
    return f"{body}{line.rstrip().removesuffix(',')}, {key}: {value}{tail}"


def _settings_line(text: str) -> tuple[str, str, str] | None:
    """Return the last line of settings with the text before and after it."""
    if len(text) > MAX_PROMPT_TEXT.value:
        return None
    rows = re.split(r"(?<=\n)", text)
    for i in range(len(rows) - 1, -1, -1):
        line = rows[i].rstrip()
        if is_settings_line(line):
            return "".join(rows[:i]), line, rows[i][len(line) :] + "".join(rows[i + 1 :])
    return None


def is_settings_line(line: str) -> bool:
    """Return whether a line consists of settings and has the steps."""
    return bool(_FIELD.match(line)) and fields(line).get("Steps", "").isdecimal()


def fields(line: str) -> dict[str, str]:
    """Return the values in a line of settings, by name."""
    return {m[1]: m[2].strip() for m in _FIELD.finditer(line)}


def plain(prompt: str, steps: int = 20, brackets: bool = True) -> str:
    """Return a prompt as plain text, without ``<lora:...>``, weights and BREAK.

    Only the last state of a change such as ``[a:b:0.5]`` is kept.

    Args:
        prompt: prompt in the notation of the WebUI, or of ComfyUI with ``brackets=False``.
        steps: steps of the sampler, for the last state of ``[a|b]``.
        brackets: whether [ ] have a meaning, as in the WebUI; ( ) always have.
    """
    text = _NETWORK.sub("", prompt)
    if not brackets:
        text = _EMBEDDING.sub("", text)
    words, _ = _read(text, 0, "", steps, brackets)
    if brackets:
        words = re.sub(r"\bBREAK\b", " ", words)
    return re.sub(r"(?:\s*,)+", ",", re.sub(r"\s+\.", ".", " ".join(words.split()))).strip(" ,")


def _read(text: str, i: int, close: str, steps: int, brackets: bool) -> tuple[str, int]:
    """Return the plain words up to the closing bracket, and the index after it."""
    parts: list[list[str]] = [[]]  # split at ":" and "|" of the same depth
    begin = i
    signs: list[str] = []
    while i < len(text):
        c = text[i]
        if c == "\\" and i + 1 < len(text) and text[i + 1] in "()[]\\":
            parts[-1].append(text[i + 1])
            i += 2
        elif c == close:
            return _resolve(["".join(part) for part in parts], signs, close, steps), i + 1
        elif c == "(" or (brackets and c == "["):
            inner, i = _read(text, i + 1, ")" if c == "(" else "]", steps, brackets)
            parts[-1].append(inner)
        elif close == "]" and c in ":|":
            signs.append(c)
            parts.append([])
            i += 1
        else:
            words = _WORDS.match(text, i)
            end = words.end() if words else i + 1
            parts[-1].append(text[i:end])
            i = end
    if close:  # not closed, so the bracket is part of the text
        opening = "(" if close == ")" else "["
        return opening + text[begin:], i
    return "".join(parts[0]), i


def _resolve(parts: list[str], signs: list[str], close: str, steps: int) -> str:
    if close == ")":
        return _WEIGHT.sub("", parts[0])
    if "|" in signs:  # the parts alternate with each step
        return parts[(max(steps, 1) - 1) % len(parts)]
    if len(parts) == 1:  # [word] has less weight
        return parts[0]
    if _WHEN.fullmatch(parts[-1]):
        when = float(parts[-1])
        reached = when < steps if when >= 1 and "." not in parts[-1] else when < 1
        before, after = (parts[0], parts[1]) if len(parts) > 2 else ("", parts[0])
        return after if reached else before
    return ":".join(parts)
