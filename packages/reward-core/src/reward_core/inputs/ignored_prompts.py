"""The tokenizer of scorers that ignore the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from .tokenizer import PromptTokenizer, check_prompts


class IgnoredPrompts(PromptTokenizer):
    """A tokenizer that gives every prompt the same single token. It has no file."""

    def __init__(self) -> None:
        super().__init__(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), 1)

    def save(self, folder: Path) -> None:
        """Write nothing."""

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return token ids (B, L) of zeros and a mask (B, L) of ones; L is 1 or ``length``."""
        check_prompts(prompts)
        token_ids = torch.zeros(len(prompts), length or 1, dtype=torch.int64)
        return token_ids, torch.ones_like(token_ids)

    def dropped_words(self, prompt: str) -> str:
        """Return "": nothing of a prompt is read, so nothing is worth reporting."""
        check_prompts([prompt])
        return ""
