"""Plain text of prompts in the notations of other generators."""

from __future__ import annotations

import re

from ..errors import InputError
from . import infotext, settings_text

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_JOB = re.compile(rf"(?<!\s)\s*\bJob ID:\s*{_UUID}.*$", re.IGNORECASE | re.DOTALL)
_FLAGS = (
    "ar|aspect|bs|c|chaos|cref|creative|cw|draft|exp|fast|hd|iw|loop|motion|niji|no|ow|oref|p|personalize|profile|q|"
    "quality|r|raw|relax|repeat|s|seed|sameseed|sref|stealth|public|stop|style|stylize|sv|sw|test|testp|tile|"
    "turbo|upbeta|uplight|v|version|video|vibe|visibility|w|weird"
)
_FLAG = re.compile(rf"(?:^|\s)(?:--|—|–)(?:{_FLAGS})(?=\s|$|\d).*$", re.DOTALL)
_IMAGES = re.compile(r"^\s*(?:<?https?://\S+\s+)+")
_SECTION = re.compile(
    r"<(?:segment|object|region|refiner|base|video|videoswap|videoextend|extend|edit|clear)\b[^<>]*>"
)
_CHOICE = re.compile(r"<(?:random|wildcard)\b[^<>]*>", re.IGNORECASE)
_CHANGE = re.compile(
    r"<(?:fromto|alternate)\b[^:<>]*:[^<>]*?[,|]{1,2}([^,|<>]*)>", re.IGNORECASE
)  # the last state
_TAG = re.compile(r"<\w+(?:\[[^\]<>]*\])?(?::[^<>]*)?>")


def midjourney(text: str) -> str | None:
    """Return the prompt before "--ar 3:2 --v 6 Job ID: ...", or None."""
    words = _JOB.sub("", text)
    prompt = _FLAG.sub("", words)
    if prompt == text:
        return None
    prompt = re.sub(r"^\s*/imagine\s+(?:prompt:?\s*)?", "", _IMAGES.sub("", prompt), flags=re.IGNORECASE)
    prompt = re.sub(r"::\s*-?\d*\.?\d*", " ", prompt)  # parts and their weights
    return " ".join(prompt.split()).strip(" ,")


def novelai(prompt: str) -> str:
    """Return a prompt without {emphasis}, [less emphasis] and 1.5::weights::."""
    prompt = re.sub(r"(?<![\w.])-?(?:\d+(?:\.\d+)?|\.\d+)::|::", "", prompt)
    return _tidy(re.sub(r"[{}\[\]]", "", prompt))


def invokeai(prompt: str) -> str:
    """Return a prompt without [negative part], weights (word++) and joins."""
    prompt = re.sub(r"\[[^\[\]]*\]", " ", prompt)
    # Checking the end first avoids trying the pattern at every quote of a long text.
    joined = prompt.rstrip().endswith(")") and re.fullmatch(
        r'\s*\((\s*".*"\s*)\)\.(?:and|blend)\(.*\)\s*', prompt, re.DOTALL
    )
    if joined:
        prompt = ", ".join(re.findall(r'"([^"]*)"', joined[1]))
    prompt = re.sub(r"\(([^()]*)\)(?:\++|-+|\d*\.?\d+)", r"\1", prompt)
    prompt = re.sub(r"(?<=\w)(?:\++|-+)(?=[\s,.;)]|$)", "", prompt)
    return _tidy(prompt)


def swarmui(prompt: str) -> str:
    """Return the part of a prompt for the whole image, without tags and weights.

    Raises:
        InputError: a part of the prompt is chosen at random.
    """
    prompt = _SECTION.split(prompt, maxsplit=1)[0]
    if choice := _CHOICE.search(prompt):
        raise InputError(f"its prompt picks a part at random ({choice[0][:60]}). Give the prompt")
    prompt = _TAG.sub(" ", _CHANGE.sub(lambda change: change[1].lstrip(), prompt))
    return infotext.plain(prompt, brackets=False) if settings_text.has_notation(prompt) else _tidy(prompt)


def _tidy(prompt: str) -> str:
    prompt = re.sub(r"\s+([,.])", r"\1", " ".join(prompt.split()))
    return re.sub(r"(?:,\s*)+,", ",", prompt).strip(" ,")
