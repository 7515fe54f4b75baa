"""Many questions as one row of tokens, so that they share the keys and values of an image without copies.

Shapes: Q questions, A candidate answers, T tokens of all questions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runs.cuda import upload
from .language_model import FIRST_TEXT_POSITION


@dataclass(frozen=True)
class PackedQuestions:
    """Tokens of Q questions, one question after the other without padding.

    After its own tokens each question has A candidates for the first token of the answer. Candidates have the
    same position and do not attend to each other, so one pass gives the logits of the first token of the
    answer and, for each candidate, those of the second one.

    Attributes:
        token_ids, positions: (T,) int64.
        mask: (T, T) boolean, True where the token of the row attends to the token of the column.
        read: (Q, 1 + A) indices of the tokens whose logits are needed: the last token of the question, then
            the candidates.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    read: Tensor

    def to(self, device: torch.device) -> PackedQuestions:
        """Return the same tokens on a device."""
        return PackedQuestions(
            *(upload(x, device) for x in (self.token_ids, self.positions, self.mask, self.read))
        )


def pack_questions(questions: Sequence[Sequence[int]], candidates: Sequence[int]) -> PackedQuestions:
    """Pack the token ids of questions, each followed by the candidates for its answer's first token."""
    ids: list[int] = []
    positions: list[int] = []
    blocks, read = [], []
    for question in questions:
        last = len(ids) + len(question) - 1
        read.append(range(last, last + 1 + len(candidates)))
        ids += [*question, *candidates]
        after = FIRST_TEXT_POSITION + len(question)
        positions += [*range(FIRST_TEXT_POSITION, after), *([after] * len(candidates))]
        blocks.append(_block(len(question), len(candidates)))
    return PackedQuestions(
        torch.tensor(ids), torch.tensor(positions), torch.block_diag(*blocks).bool(), torch.tensor(read)
    )


def _block(length: int, candidates: int) -> Tensor:
    """Return the mask of one question: candidates attend to it and to themselves, not to each other."""
    block = torch.ones(length + candidates, length + candidates, dtype=torch.bool).tril()
    block[length:, length:] = torch.eye(candidates, dtype=torch.bool)
    return block
