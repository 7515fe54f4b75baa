"""The arithmetic of a checklist: answers and alignment to a score.

Letters in shape comments: Q questions of the checklist.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError
from .checklist import Checklist, published_structure


def checklist_score(answers: Sequence[bool], alignment: float, checklist: Checklist | None = None) -> float:
    """Return the score of an image for a prompt, computed in float64 as the authors' program does.

    Args:
        answers: whether each question was answered with yes, in the order of the checklist.
        alignment: alignment of image and prompt, the VQAScore for VisionReward.
        checklist: the checklist; by default groups, gates and weights of VisionReward-Image.

    Raises:
        InputError: another number of answers, or an answer that is neither True nor False. A question that
            could not be answered has no value here, because it must not count as no.
    """
    checklist = checklist or published_structure()
    bits = [_as_bool(answer, i) for i, answer in enumerate(answers)]
    if len(bits) != len(checklist.questions):
        raise InputError(
            f"Cannot compute the score of {checklist.name}: got {len(bits)} answers for "
            f"{len(checklist.questions)} questions. Give one for each question."
        )
    answered = torch.tensor(bits, dtype=torch.float64)
    terms = contributions(answered, torch.tensor(float(alignment), dtype=torch.float64), checklist)
    return (terms.sum() + checklist.intercept).item()


def contributions(answers: Tensor, alignment: Tensor, checklist: Checklist) -> Tensor:
    """Return what alignment and each question add to the score, (..., 1 + Q) float64; alignment is first.

    Args:
        answers: (..., Q) 1 for yes and 0 for no, or probabilities of yes. Then the result is the expectation
            for independent answers, and the gates are the probabilities that they are open.
        alignment: (...,).
        checklist: the checklist.
    """
    answers, alignment = answers.double(), alignment.double()
    # A question without a gate reads its gate from the last entry, which is open.
    gates = [len(checklist.questions) if gate is None else gate for gate in checklist.gates]
    is_open = torch.cat([answers, torch.ones_like(answers[..., :1])], dim=-1)[..., gates]
    weights = [question.weight for question in checklist.questions]
    values = torch.cat([alignment[..., None], (2 * answers - 1) * is_open], dim=-1)
    return values * values.new_tensor([checklist.alignment_weight, *weights])


def _as_bool(answer: object, index: int) -> bool:
    if answer is True or answer is False:
        return answer
    item = getattr(answer, "item", None)  # of numpy and torch
    if item is not None and isinstance(value := item(), bool):
        return value
    raise InputError(
        f"Cannot compute the score: answer {index + 1} is {answer!r:.80}. Give True for yes, False for no."
    )
