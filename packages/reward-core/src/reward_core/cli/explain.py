"""``reward-core rank --explain``: what adds to the score of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..files.score_file import GroupRow
    from ..models.visionreward.explanation import ExplainedAnswer, Explanation
    from ..scoring.scorer_group import ScorerGroup


def explained_rows(
    group: ScorerGroup, prompt: str, images: Sequence[str], batch_size: int | None
) -> tuple[list[GroupRow], list[Explanation]]:
    """Return a row for each image, and an explanation for each row without an error.

    Raises:
        InputError: the group is not one model with a checklist.
    """
    from ..errors import InputError
    from ..files.score_file import GroupRow

    name = group.names[0]
    model = group[name]
    if len(group.names) > 1 or not hasattr(model, "explain"):
        what = f"{len(group.names)} models were given" if len(group.names) > 1 else "it has no checklist"
        raise InputError(
            f"Cannot explain the scores of {', '.join(group.names)}: {what}. Give one model with a "
            "checklist, such as VisionReward, or leave --explain out."
        )
    features, errors = model.encode_readable_images(images, batch_size=batch_size)
    explanations: list[Explanation] = model.explain(prompt, features) if len(features) else []
    explained = iter(explanations)
    rows = [
        GroupRow(prompt, image, {}, errors[i])
        if i in errors
        else GroupRow(prompt, image, {name: next(explained).score}, None)
        for i, image in enumerate(images)
    ]
    return rows, explanations


def print_explanation(image: str, explanation: Explanation) -> None:
    """Print the terms of a score as a table of at most 80 columns, or as a list."""
    from ..printing.terminal import PlainTable, print_table

    gates = ", ".join(f"{name} {_yes(is_open)}" for name, is_open in explanation.gates.items())
    total = f"total: {explanation.score:.4f}"
    caption = f"{total}; gates: {gates}; -: closed gate, adds 0" if gates else total
    table = PlainTable(title=image, caption=caption)
    table.add_column("group")
    table.add_column("question", wrap=True)
    table.add_column("answer")
    table.add_column("weight", justify="right")
    table.add_column("adds", justify="right")
    if explanation.alignment is not None:
        table.add_row(
            "alignment",
            "How well does the image show the prompt?",
            f"{explanation.alignment:.4f}",
            f"{explanation.alignment_weight:.4f}",
            f"{explanation.alignment_adds:.4f}",
        )
    for judgment in explanation.judgments:
        table.add_row(*_cells(judgment))
    if explanation.intercept:
        table.add_row("intercept", "", "", "", f"{explanation.intercept:.4f}")
    print_table(table)


def _cells(judgment: ExplainedAnswer) -> list[str]:
    adds = f"{judgment.adds:.4f}" if judgment.counts else "-"
    answer = _yes(judgment.answer)
    return [judgment.group, judgment.question, answer, f"{judgment.weight:.4f}", adds]


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"
