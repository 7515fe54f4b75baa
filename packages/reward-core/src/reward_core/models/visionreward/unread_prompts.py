"""The tokenizer of a checklist that does not read the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from ...inputs.tokenizer import PromptTokenizer, check_prompts


class UnreadPrompts(PromptTokenizer):
    """A tokenizer that returns one token for every prompt."""

    def __init__(self) -> None:
        super().__init__(Tokenizer(WordLevel({"": 0}, unk_token="")), max_length=1)

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, (P, 1) each."""
        check_prompts(prompts)
        ids = torch.zeros(len(prompts), 1, dtype=torch.int64)
        return ids, torch.ones_like(ids)

    def dropped_words(self, prompt: str) -> str:
        """Return "": no prompt is cut."""
        return ""
