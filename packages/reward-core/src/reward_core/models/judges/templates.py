"""Templates of judges: what a vision-language model is asked, and how its answer is read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files.foreign_bytes import read_regular, reason
from ...files.json_file import parse_json
from ...files.limits import MB, Limit
from ..names import match_name

POINTWISE, PAIRWISE, YES_NO = "pointwise", "pairwise", "yes_no"
# Parsers of each kind, the default first. They are functions of parsing.py.
PARSERS: Mapping[str, tuple[str, ...]] = {
    POINTWISE: ("labeled_scores", "number"),
    PAIRWISE: ("image_shares", "better_image"),
    YES_NO: ("first_token",),
}
PLACEHOLDER = "{prompt}"
# Largest file with a template. Usual ones have 2 kB.
MAX_TEMPLATE_BYTES = Limit("MAX_TEMPLATE_BYTES", MB)


@dataclass(frozen=True)
class JudgeTemplate:
    """A question to a vision-language model, and how its answer becomes a score.

    Attributes:
        name: short name, for errors and listings.
        text: the question, with {prompt} for the prompt. The prompt is inserted unchanged.
        kind: "pointwise" rates one image, "pairwise" compares two, "yes_no" gives the probability of yes.
        parser: how an answer is read (default: the first of its kind).
            "labeled_scores": a number after each label, as in "Style Score: 3.5"; the score is their mean.
            "number": the answer is one number.
            "image_shares": "Image 1: 0.4" and "Image 2: 0.6" below each label, with a sum of 1.
            "better_image": "Image 1 is better", "Image 2 is better" or "Both images are equally good".
            "first_token": the probability of yes against no as the first token of the answer.
        labels: labels of the numbers for "labeled_scores" and "image_shares"; the two words for
            "first_token".
        range: lowest and highest valid number. Another number is an error.
        max_tokens: longest answer in tokens. A longer answer is an error.

    Raises:
        InputError: an unknown kind or parser, or a text without {prompt}.
    """

    name: str
    text: str
    kind: str = POINTWISE
    parser: str = ""
    labels: tuple[str, ...] = ()
    range: tuple[float, float] = (1.0, 5.0)
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for field, kind in (("name", str), ("text", str), ("kind", str), ("parser", str)):
            if not isinstance(getattr(self, field), kind):
                raise self._error(f"{field} must be a string")
        if self.kind not in PARSERS:
            raise self._error(f"kind must be one of {', '.join(PARSERS)}, got {self.kind!r:.40}")
        if not self.parser:
            object.__setattr__(self, "parser", PARSERS[self.kind][0])
        if self.kind == YES_NO and not self.labels:
            object.__setattr__(self, "labels", ("yes", "no"))
        self._check()

    def question(self, prompt: str) -> str:
        """Return the text with a prompt in it."""
        return self.text.replace(PLACEHOLDER, prompt)

    def _check(self) -> None:
        if PLACEHOLDER not in self.text:
            raise self._error(f"its text does not contain {PLACEHOLDER}")
        if self.parser not in PARSERS[self.kind]:
            valid = " or ".join(PARSERS[self.kind])
            raise self._error(f"parser of kind {self.kind} must be {valid}, got {self.parser!r:.40}")
        if isinstance(self.labels, str) or not all(isinstance(label, str) and label for label in self.labels):
            raise self._error("labels must be a list of strings")
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.parser in ("labeled_scores", "image_shares") and not self.labels:
            raise self._error(f"parser {self.parser} needs labels")
        if len({label.lower() for label in self.labels}) != len(self.labels):
            raise self._error("labels must differ")
        if self.kind == YES_NO and len(self.labels) != 2:
            raise self._error("kind yes_no needs two labels, such as yes and no")
        self._check_numbers()

    def _check_numbers(self) -> None:
        try:
            low, high = map(float, self.range)
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise self._error(f"range must be two increasing numbers, got {self.range!r:.40}")
        object.__setattr__(self, "range", (low, high))
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise self._error(f"max_tokens must be a whole number of at least 1, got {self.max_tokens!r:.40}")

    def _error(self, problem: str) -> InputError:
        return InputError(f"Cannot use the template {self.name!r:.80}: {problem}. Correct the template.")


def find_template(
    template: JudgeTemplate | str | os.PathLike[str], built_in: Mapping[str, JudgeTemplate]
) -> JudgeTemplate:
    """Return a template by object, by name or from a file.

    Raises:
        InputError: neither a name nor a valid file.
    """
    if isinstance(template, JudgeTemplate):
        return template
    name = os.fsdecode(template)
    if os.path.isfile(name):
        return read_template(Path(name))
    known = match_name(name, built_in)
    if known is None:
        names = ", ".join(built_in)
        raise InputError(
            f"Cannot find the template {name!r}: it is neither a file nor one of {names}. Give one of them."
        )
    return built_in[known]


def read_template(path: Path) -> JudgeTemplate:
    """Read a template from a .json, .yaml or .yml file with the attributes of `JudgeTemplate`.

    The name of the file is the default for ``name``.

    Raises:
        InputError: the file cannot be read, or is not a template.
    """
    try:
        text = read_regular(path, MAX_TEMPLATE_BYTES).decode("utf-8")
        content = parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the template '{path}': {reason(error)}.") from error
    known = [field.name for field in fields(JudgeTemplate)]
    if not isinstance(content, dict) or "text" not in content:
        raise InputError(f"Cannot use the template '{path}': it has no text. Give {', '.join(known)}.")
    if unknown := [str(key) for key in content if key not in known]:
        raise InputError(
            f"Cannot use the template '{path}': unknown {', '.join(unknown)}. Use only {', '.join(known)}."
        )
    return JudgeTemplate(**{"name": path.stem, **content})


def _parse_yaml(text: str) -> Any:
    from ...runs.settings import import_yaml

    yaml = import_yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
