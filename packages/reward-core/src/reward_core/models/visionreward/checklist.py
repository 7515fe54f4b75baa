"""Checklists: yes/no questions about an image with weights, stored as JSON. It loads without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, InputError
from ...files.format_version import FORMAT_VERSION, check_format_version
from ...files.json_file import read_json, write_json
from ...files.limits import MB, Limit

CHECKLIST_FORMAT = 1
MAX_CHECKLIST_BYTES = Limit("MAX_CHECKLIST_BYTES", 4 * MB)
_WHAT_TO_DO = "Write it in the format of docs/visionreward.md."
_STRUCTURE = Path(__file__).with_name("image_checklist.json")


@dataclass(frozen=True)
class ChecklistQuestion:
    """A yes/no question about an image.

    Attributes:
        text: the question; empty only in a checklist without texts.
        group: name of the group in explanations.
        weight: what the score gains by yes and loses by no. 0 for a question that only opens a gate.
        opens: name of the gate that yes opens and no closes; empty for none.
        gate: name of the gate that must be open, or else the question counts 0; empty for none.
    """

    text: str = ""
    group: str = ""
    weight: float = 0.0
    opens: str = ""
    gate: str = ""


@dataclass(frozen=True)
class Checklist:
    """Questions, and the weights that turn their answers into a score.

    score = intercept + alignment_weight * alignment + sum of weight * (+1 for yes, -1 for no, 0 for a closed
    gate). `checklist_score` computes it.

    Attributes:
        name: name of the checklist.
        questions: the questions, in the order in which they are asked.
        alignment_weight: weight of the alignment of image and prompt; 0 if the prompt is not read.
        intercept: constant of the score.
    """

    name: str
    questions: tuple[ChecklistQuestion, ...]
    alignment_weight: float = 0.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        opened = [question.opens for question in self.questions if question.opens]
        for i, question in enumerate(self.questions):
            if question.gate and question.gate not in opened:
                raise InputError(_invalid(self.name, f"no question opens the gate {question.gate!r}", i))
            if question.gate and question.opens:
                raise InputError(_invalid(self.name, "a question that opens a gate cannot have one", i))
            if question.opens and opened.count(question.opens) > 1:
                raise InputError(_invalid(self.name, f"two questions open the gate {question.opens!r}", i))
        numbers = [self.alignment_weight, self.intercept, *(q.weight for q in self.questions)]
        if not self.questions or not all(math.isfinite(number) for number in numbers):
            raise InputError(_invalid(self.name, "it needs at least one question, and finite weights"))

    @property
    def texts(self) -> list[str]:
        """The questions as they are asked."""
        return [question.text for question in self.questions]

    @property
    def gates(self) -> list[int | None]:
        """For each question, the index of the question that opens its gate; None without a gate."""
        opening = {question.opens: i for i, question in enumerate(self.questions) if question.opens}
        return [opening[question.gate] if question.gate else None for question in self.questions]

    def with_texts(self, texts: Sequence[str], source: str) -> Checklist:
        """Return the checklist with these questions.

        Args:
            texts: one question for each of ``questions``.
            source: where they are from, for errors.

        Raises:
            CheckpointError: another number of questions, or an empty one.
        """
        texts = [text.strip() for text in texts]
        if len(texts) != len(self.questions) or not all(texts):
            raise CheckpointError(
                f"Cannot use the questions of '{source}': {sum(map(bool, texts))} of its {len(texts)} lines "
                f"are not empty; {self.name} has {len(self.questions)} questions, one in each line. Download "
                "the file again."
            )
        pairs = zip(self.questions, texts)
        return replace(self, questions=tuple(replace(question, text=text) for question, text in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a checklist file."""
        return {FORMAT_VERSION: CHECKLIST_FORMAT, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write a checklist file."""
        write_json(path, self.to_dict())

    @classmethod
    def from_file(cls, path: Path) -> Checklist:
        """Read a checklist file.

        Raises:
            CheckpointError: the file cannot be read, or has another format.
        """
        checklist = checklist_from_dict(read_json(path, MAX_CHECKLIST_BYTES), str(path))
        for i, question in enumerate(checklist.questions):
            if not question.text.strip():
                raise CheckpointError(_invalid(str(path), "its text is missing", i))
        return checklist


def checklist_from_dict(content: Any, source: str) -> Checklist:
    """Return the checklist for the content of a file.

    Raises:
        CheckpointError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(content, dict):
        raise CheckpointError(_invalid(source, f"expected a JSON object, got {content!r:.80}"))
    check_format_version(content, CHECKLIST_FORMAT, source, _WHAT_TO_DO)
    values = {key: value for key, value in content.items() if key != FORMAT_VERSION}
    entries = values.pop("questions", None)
    if not isinstance(entries, list):
        raise CheckpointError(_invalid(source, "'questions' must be a list"))
    questions = tuple(
        ChecklistQuestion(**_checked(ChecklistQuestion, entry, source, i)) for i, entry in enumerate(entries)
    )
    try:
        return Checklist(**{"name": source, **_checked(Checklist, values, source)}, questions=questions)
    except InputError as error:
        raise CheckpointError(str(error)) from error


@cache
def published_structure() -> Checklist:
    """Return groups, gates and weights of VisionReward-Image without the questions, which are not included.

    The gate "body" also closes the two questions about harm, as in the authors' program.
    """
    return checklist_from_dict(read_json(_STRUCTURE, MAX_CHECKLIST_BYTES), str(_STRUCTURE))


def read_checklist(path: Path) -> Checklist:
    """Read a checklist file (.json), or VisionReward's questions, one a line.

    Raises:
        CheckpointError: the file cannot be read, or has another format.
    """
    if path.suffix == ".json":
        return Checklist.from_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read the questions of '{path}': {error}.") from error
    return published_structure().with_texts(lines, str(path))


def _checked(kind: type, content: Any, source: str, index: int | None = None) -> dict[str, Any]:
    """Return the values of a dataclass after checking keys and types."""
    types = {field.name: field.type for field in fields(kind)}
    if not isinstance(content, dict) or set(content) - set(types):
        known = ", ".join(types)
        raise CheckpointError(_invalid(source, f"expected an object with the keys {known}", index))
    checked: dict[str, Any] = {}
    for key, value in content.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if types[key] == "float" and is_number:
            checked[key] = float(value)
        elif types[key] == "str" and isinstance(value, str):
            checked[key] = value
        else:
            wanted = "a number" if types[key] == "float" else "a text"
            raise CheckpointError(_invalid(source, f"{key!r} must be {wanted}, got {value!r:.80}", index))
    return checked


def _invalid(source: str, what: str, index: int | None = None) -> str:
    where = "" if index is None else f"question {index + 1}: "
    return f"Cannot use the checklist '{source}': {where}{what}. {_WHAT_TO_DO}"
