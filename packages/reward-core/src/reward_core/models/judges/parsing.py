"""Read scores from answers. An answer that is not clear is an error, never a default value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

from ...errors import AnswerError
from .answers import Answer
from .templates import JudgeTemplate

SUM_TOLERANCE = 0.01  # of the shares of two images, which sum to 1
LONGEST_ANSWER = 2**18  # characters; answers of usual judges have a few thousand
TIE = 1e-9  # difference of means of shares that is only rounding

Scores = dict[str, float]

_NUMBER = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[*_`]*\s*(?:/|(?:out )?of)\s*([0-9.]+))?(.*)"
)
# What may follow a number: the end, a space or punctuation, but neither a decimal comma, a unit nor "3-4".
_AFTER = re.compile(r"(?:$|[\s)\];(]|[.,:]+(?:\s|$))(?!\s*(?:-|–|—|~|to\b|or\b)\s*[0-9.])")
_STARTS_NUMBER = re.compile(r"[+-]?\.?[0-9]")
_MARKS = "*_` \t"
_CONCLUSION = re.compile(
    r"\b(?:(image 1 is better)|(image 2 is better)|(both images are equally good))\b", re.IGNORECASE
)
_DOUBT = re.compile(r"\b(?:not|never|whether|if|unless|nor|neither)\b|n't\b", re.IGNORECASE)


def read_scores(template: JudgeTemplate, answer: Answer) -> Scores:
    """Return the scores of a pointwise answer by dimension, such as {"alignment": 3.5, ...}.

    Raises:
        AnswerError: the answer is truncated, a score is missing, out of range, or has two values.
    """
    return {name: values[0] for name, values in _parsed(template, answer).items()}


def read_shares(template: JudgeTemplate, answer: Answer) -> dict[str, tuple[float, float]]:
    """Return the shares of the first and second image by dimension; each pair sums to about 1.

    Raises:
        AnswerError: the answer is truncated, or a dimension is missing, invalid or has two values.
    """
    return {name: (values[0], values[1]) for name, values in _parsed(template, answer).items()}


def mean(values: Mapping[str, float]) -> float:
    """Return the mean of the scores of all dimensions."""
    return math.fsum(values.values()) / len(values)


def wins_of_first(shares: Mapping[str, tuple[float, float]]) -> float:
    """Return 1 if the first image has the larger mean share, 0 if the second has it, 0.5 for a tie."""
    difference = math.fsum(first - second for first, second in shares.values())
    return 0.5 if abs(difference) <= TIE else float(difference > 0)


def _parsed(template: JudgeTemplate, answer: Answer) -> dict[str, tuple[float, ...]]:
    try:
        return _PARSERS[template.parser](template, _conclusion_text(answer))
    except ValueError as error:
        raise AnswerError(answer.text, str(error)) from None


def _conclusion_text(answer: Answer) -> str:
    """Return the text of an answer without thoughts."""
    if not answer.complete:
        raise ValueError("it was cut off at the largest number of tokens")
    if len(answer.text) > LONGEST_ANSWER:
        raise ValueError(f"it has {len(answer.text):,} characters")
    text = re.sub(r"<think>.*?</think>", "", answer.text, flags=re.DOTALL)
    if "<think>" in text:
        raise ValueError("its thoughts have no end")
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _labeled_scores(template: JudgeTemplate, text: str) -> dict[str, tuple[float, ...]]:
    return {_dimension(label): (_labeled(text, label, template.range),) for label in template.labels}


def _number(template: JudgeTemplate, text: str) -> dict[str, tuple[float, ...]]:
    return {"score": (_value(text.strip(), "the answer", template.range, whole=True),)}


def _image_shares(template: JudgeTemplate, text: str) -> dict[str, tuple[float, ...]]:
    shares = {}
    for label in template.labels:
        found = {_pair(block, label, template) for block in _blocks(text, label, template.labels)}
        shares[_dimension(label)] = _only(found, label)
    return shares


def _better_image(template: JudgeTemplate, text: str) -> dict[str, tuple[float, ...]]:
    tags = re.findall(r"<answer>(.*?)</answer>", text, flags=re.DOTALL)
    if not tags and "<answer>" in text:
        raise ValueError("its <answer> has no end")
    conclusions = set()
    for sentence in re.split(r"[.!?\n]", "\n".join(tags) if tags else text):
        for match in _CONCLUSION.finditer(sentence):
            if _DOUBT.search(sentence):
                raise ValueError(f"{match[0]!r} is not stated as a fact")
            conclusions.add(next(i for i in (1, 2, 3) if match[i]))
    if len(conclusions) > 1:
        raise ValueError("it has two conclusions")
    if not conclusions:
        raise ValueError("it has no conclusion")
    return {"preference": {1: (1.0, 0.0), 2: (0.0, 1.0), 3: (0.5, 0.5)}[conclusions.pop()]}


_PARSERS: Mapping[str, Callable[[JudgeTemplate, str], dict[str, tuple[float, ...]]]] = {
    "labeled_scores": _labeled_scores,
    "number": _number,
    "image_shares": _image_shares,
    "better_image": _better_image,
}


def _dimension(label: str) -> str:
    """Return the name of a dimension for its label: "Style Score" -> "style"."""
    return (re.sub(r"\s+score$", "", label, flags=re.IGNORECASE) or label).lower()


def _mentions(text: str, label: str, limits: tuple[float, float] | None) -> Iterator[re.Match[str]]:
    """Yield the places where a label with a colon ends; "(1-5)" and Markdown may be between them."""
    span = rf"(?:\(\s*{limits[0]:g}\s*[-–]\s*{limits[1]:g}\s*\)[*_`\s]*)?" if limits else ""
    pattern = rf"(?<![^\W_]){re.escape(label)}[*_`\s]*{span}[:：][*_`\s]*"
    return re.finditer(pattern, text, flags=re.IGNORECASE)


def _labeled(text: str, label: str, limits: tuple[float, float]) -> float:
    """Return the number after a label. Mentions of the label without a number are ignored."""
    lines = [text[match.end() :].partition("\n")[0] for match in _mentions(text, label, limits)]
    return _only({_value(line, label, limits) for line in lines if _STARTS_NUMBER.match(line)}, label)


def _value(text: str, name: str, limits: tuple[float, float], whole: bool = False) -> float:
    """Return the number at the start of a text.

    Args:
        text: the text.
        name: name of the number, for errors.
        limits: lowest and highest valid number.
        whole: whether the text may have nothing but the number.
    """
    low, high = limits
    match = _NUMBER.fullmatch(text.strip(_MARKS) if whole else text)
    rest = match[3].lstrip(_MARKS[:-2]) if match else ""
    if match is None or not _AFTER.match(rest) or (whole and rest not in ("", ".")):
        raise ValueError(f"{name} is not a number: {text[:40]!r}")
    if match[2] is not None and _as_float(match[2]) != high:
        raise ValueError(f"{name} is out of {match[2]} instead of {high:g}")
    value = float(match[1])
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}, which is not in {low:g} to {high:g}")
    return value


def _as_float(text: str) -> float:
    try:
        return float(text.rstrip("."))
    except ValueError:
        return math.nan


def _blocks(text: str, label: str, labels: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts from a label to the next label."""
    starts = sorted((m.start(), m.end(), other) for other in labels for m in _mentions(text, other, None))
    ends = [start for start, _, _ in starts[1:]] + [len(text)]
    for (_, begin, other), end in zip(starts, ends):
        block = text[begin:end]
        if other == label and re.search(r"image [12]", block, re.IGNORECASE):
            yield block


def _pair(block: str, label: str, template: JudgeTemplate) -> tuple[float, float]:
    try:
        first, second = (_labeled(block, f"Image {i}", template.range) for i in (1, 2))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if abs(first + second - 1) > SUM_TOLERANCE:
        raise ValueError(f"{label}: the shares {first:g} and {second:g} do not sum to 1")
    return first, second


def _only(found: set, label: str):
    """Return the only element.

    Raises:
        ValueError: there are none or several.
    """
    if not found:
        raise ValueError(f"it has no {label}")
    if len(found) > 1:
        raise ValueError(f"it has several values of {label}: {', '.join(map(str, sorted(found)))}")
    return found.pop()
