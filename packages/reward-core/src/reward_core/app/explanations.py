"""Explanations of scores under the images: what each judgment of a checklist adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..models.visionreward.explanation import ExplainedAnswer, Explanation
from ..printing.escapes import html_text


def explain_images(
    model: Any, prompts: Sequence[str], images: Sequence[Image.Image], batch_size: int | None
) -> list[list[Explanation]]:
    """Return the explanation of every prompt with every image. Questions are asked once per image.

    Args:
        model: a scorer with a checklist.
        prompts: the prompts.
        images: the images.
        batch_size: images per batch; None for the model's default.
    """
    features = model.encode_images(images, batch_size=batch_size)
    return [model.explain(prompt, features) for prompt in prompts]


def explanation_html(explanation: Explanation) -> str:
    """Return a table of the judgments, which is folded until the visitor opens it."""
    rows = [_row(judgment) for judgment in explanation.judgments]
    if explanation.alignment is not None:
        value, adds = f"{explanation.alignment:.2f}", f"{explanation.alignment_adds:+.2f}"
        rows.insert(0, f"<tr><td>Shows the prompt</td><td>{value}</td><td>{adds}</td></tr>")
    if explanation.intercept:
        rows.append(f"<tr><td>Constant</td><td></td><td>{explanation.intercept:+.2f}</td></tr>")
    body = f"<table><tbody>{''.join(rows)}</tbody></table>"
    return f'<details class="rc-explained"><summary>Why this score</summary>{body}</details>'


def _row(judgment: ExplainedAnswer) -> str:
    answer = "yes" if judgment.answer else "no"
    adds = f"{judgment.adds:+.2f}" if judgment.counts else f"no {html_text(judgment.gate)}"
    question = f'<td title="{html_text(judgment.group)}">{html_text(judgment.question)}</td>'
    return f"<tr>{question}<td>{answer}</td><td>{adds}</td></tr>"
