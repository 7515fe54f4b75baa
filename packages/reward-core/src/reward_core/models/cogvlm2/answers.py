"""The answer to a question, from the logits of the tokens after it.

Shapes: B images, Q questions, A candidates for the first token of a positive answer, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import NonFiniteRewardError
from .prompts import AnswerTokens


def says_yes(logits: Tensor, tokens: AnswerTokens) -> Tensor:
    """Return whether the greedy answer to each question is exactly "yes", (B, Q) boolean.

    The first token must be "yes" or " yes" and the second one end of text. The authors decode the answer,
    strip it and compare it with "yes<|end_of_text|>", so "Yes", "yes." or "yes<|eot_id|>" are no. Of equal
    logits the one with the lowest id wins.

    Args:
        logits: (B, Q, 1 + A, V): after the question, then after each candidate.
        tokens: ids of the answers; the candidates are ``tokens.yeses``.

    Raises:
        NonFiniteRewardError: a logit is NaN or infinite.
    """
    check_finite(logits)
    best = logits.argmax(-1)  # (B, Q, 1 + A)
    candidates = torch.tensor(tokens.yeses, device=logits.device)
    is_first = best[..., :1] == candidates  # (B, Q, A)
    return (is_first & (best[..., 1:] == tokens.end_of_text)).any(-1)


def yes_log_probability(logits: Tensor, tokens: AnswerTokens) -> Tensor:
    """Return log P(answer is exactly "yes"), (B, Q), differentiably.

    P = sum over the candidates a of P(a | question) P(end of text | question, a). Args and Raises are those
    of ``says_yes``.
    """
    check_finite(logits)
    log_p = logits.log_softmax(-1)
    first = log_p[..., 0, list(tokens.yeses)]  # (B, Q, A)
    end = log_p[..., 1:, tokens.end_of_text]  # (B, Q, A)
    return (first + end).logsumexp(-1)


def check_finite(logits: Tensor) -> None:
    """Raise NonFiniteRewardError if a logit (B, Q, 1 + A, V) is NaN or infinite."""
    broken = ~logits.isfinite().flatten(2).all(-1)  # (B, Q)
    if broken.any():
        image, question = broken.nonzero()[0].tolist()
        raise NonFiniteRewardError(
            f"Cannot answer question {question} about image {image} of the batch: the logits are not finite. "
            "Check the weights, and use bfloat16 or float32 instead of float16."
        )
