"""Why an image has its score: each judgment with its weight and what it adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .checklist import Checklist
from .checklist_score import contributions


@dataclass(frozen=True)
class ExplainedAnswer:
    """The answer to a question and what it adds to the score.

    Attributes:
        group: group of the question.
        question: the question.
        answer: True for yes.
        weight: weight of the question; 0 for a question that only opens a gate.
        gate: name of the gate that the question needs; empty for none.
        counts: whether the gate is open.
        adds: weight for yes, -weight for no, 0 if the gate is closed.
    """

    group: str
    question: str
    answer: bool
    weight: float
    gate: str
    counts: bool
    adds: float


@dataclass(frozen=True)
class Explanation:
    """A score as the sum of its terms.

    Attributes:
        score: ``intercept``, ``alignment_adds`` and what all judgments add.
        alignment: how well the image shows the prompt; None if the checklist does not read the prompt.
        alignment_weight: its weight.
        alignment_adds: alignment times weight.
        intercept: constant of the score.
        gates: name of each gate -> whether it is open.
        gate_questions: the questions that open the gates.
        judgments: the questions with a weight, in the order of the checklist.
    """

    score: float
    alignment: float | None
    alignment_weight: float
    alignment_adds: float
    intercept: float
    gates: dict[str, bool]
    gate_questions: tuple[ExplainedAnswer, ...]
    judgments: tuple[ExplainedAnswer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as values for JSON."""
        return asdict(self)


def explain_answers(answers: Sequence[bool], alignment: float | None, checklist: Checklist) -> Explanation:
    """Return the explanation of the score of these answers.

    Args:
        answers: one answer for each question.
        alignment: alignment of image and prompt; None if the checklist does not read the prompt.
        checklist: the checklist.
    """
    terms = contributions(torch.tensor(answers), torch.tensor(alignment or 0.0), checklist).tolist()
    explained = []
    for question, answer, gate, adds in zip(checklist.questions, answers, checklist.gates, terms[1:]):
        counts = gate is None or bool(answers[gate])
        explained.append(
            ExplainedAnswer(
                question.group, question.text, bool(answer), question.weight, question.gate, counts, adds
            )
        )
    pairs = list(zip(checklist.questions, explained))
    return Explanation(
        score=sum(terms) + checklist.intercept,
        alignment=alignment,
        alignment_weight=checklist.alignment_weight,
        alignment_adds=terms[0],
        intercept=checklist.intercept,
        gates={question.opens: answer.answer for question, answer in pairs if question.opens},
        gate_questions=tuple(answer for question, answer in pairs if question.opens and not question.weight),
        judgments=tuple(answer for question, answer in pairs if question.weight or not question.opens),
    )
