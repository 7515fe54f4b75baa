"""Prompts from texts that end with settings, as AUTOMATIC1111's WebUI writes them.

    a red house
    Negative prompt: blurred
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512

`infotext` is strict, because it finds the line to which a score is added. This module reads more variants of
other programs: no negative prompt, no steps, everything on one line, other line ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import infotext

_NUMBER, _WHOLE, _SIZE = r"[+-]?\d+(?:\.\d+)?", r"-?\d+(?:\.0)?", r"\d+\s*[x×]\s*\d+"
# Names of settings and patterns of their values.
SETTINGS = {
    "steps": r"\d+(?:\.\d+)?",
    "seed": _WHOLE,
    "size": _SIZE,
    "cfg scale": _NUMBER,
    "cfg": _NUMBER,
    "guidance scale": _NUMBER,
    "guidance": _NUMBER,
    "distilled cfg scale": _NUMBER,
    "denoising strength": _NUMBER,
    "strength": _NUMBER,
    "clip skip": _WHOLE,
    "width": _WHOLE,
    "height": _WHOLE,
    "model hash": r"[0-9a-fA-F]{6,}",
    "sampler": r"\w[\w+ .()/-]*",
    "sampling method": r"\w[\w+ .()/-]*",
    "scheduler": r"\w[\w+ .()/-]*",
    "schedule type": r"\w[\w+ .()/-]*",
    "model": r".+",
}
_WORDS = ("model", "scheduler", "strength", "guidance", "size", "width", "height")  # a sentence may have them
_NAME = "|".join(sorted(map(re.escape, SETTINGS), key=len, reverse=True))
_BEGIN = re.compile(rf"(?<![^\s,.;|])(?:{_NAME}):\s*(?=\S)", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?<!\w)negative[ _]prompts?:", re.IGNORECASE)
_LABEL = re.compile(r"\s*(?:positive\s+)?prompts?:\s*", re.IGNORECASE)
_NOTATION = re.compile(
    r"<(?:lora|lyco|lycoris|hypernet|locon|loha|ti):[^<>\n]*>|\([^()\n]*:\s*(?:\d+(?:\.\d+)?|\.\d+)\s*\)"
)
_CHECKED = 400  # number of characters checked to detect a line of settings
_TRIES = 200


@dataclass(frozen=True)
class Settings:
    """The prompt and the steps of a text (20 if unknown)."""

    prompt: str
    steps: int = 20


def read(text: str) -> Settings | None:
    """Return the prompt (in its notation) and the steps, or None without settings."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = _split(text)
    if parts is None:
        return None
    before, line = parts
    fields = _fields(line)
    before = without_negative(before)
    if "guidance scale" in fields or "guidance" in fields:  # Draw Things writes "-" for "Negative prompt:"
        before = re.split(r"(?m)^-", before, maxsplit=1)[0]
    steps = fields.get("steps", "")
    return Settings(
        without_label(before), int(float(steps)) if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", steps) else 20
    )


def without_negative(text: str) -> str:
    """Return the text before "Negative prompt:"."""
    return _NEGATIVE.split(text, maxsplit=1)[0].rstrip(" \t\n,;|")


def without_label(text: str) -> str:
    """Return a prompt without a leading "Prompt:"."""
    return _LABEL.sub("", text, count=1).strip() if _LABEL.match(text) else text.strip()


def has_notation(text: str) -> bool:
    """Return whether a text has a network "<lora:x:1>" or a weight "(red:1.3)"."""
    return _NOTATION.search(text) is not None


def plain(text: str) -> str:
    """Return a text without label, negative prompt and notation."""
    prompt = without_label(without_negative(text.replace("\r\n", "\n").replace("\r", "\n")))
    return infotext.plain(prompt) if has_notation(prompt) else prompt


def _split(text: str) -> tuple[str, str] | None:
    """Return the text before the settings, and the settings."""
    rows = text.split("\n")
    tries = 0
    for i in range(len(rows) - 1, -1, -1):
        row = rows[i]
        if _are_settings(row) or (i > 0 and _has_steps(row)):
            return "\n".join(rows[:i]), row
        for match in _BEGIN.finditer(row):
            tries += 1
            if tries > _TRIES:
                return None
            if _are_settings(row[match.start() :]):
                return "\n".join([*rows[:i], row[: match.start()]]), row[match.start() :]
        if _has_steps(row):
            return "", row
    return None


def _has_steps(row: str) -> bool:
    return infotext.is_settings_line(row.rstrip()) and not _NEGATIVE.search(row)


def _are_settings(line: str) -> bool:
    """Return whether a text begins with two settings (three if it may be a sentence)."""
    start = line[:_CHECKED]
    if not _BEGIN.match(start.lstrip()):
        return False
    fields = _fields(start)
    known = [name for name in fields if name in SETTINGS and re.fullmatch(SETTINGS[name], fields[name])]
    first = next(iter(fields), None)
    return first in known and len(known) >= (3 if first in _WORDS else 2)


def _fields(line: str) -> dict[str, str]:
    return {name.lower(): value for name, value in infotext.fields(line).items()}
