"""Scorers that see the picture and read the prompt each alone, and compare two vectors.

Letters in shape comments: B batch, N pictures, P prompts, L text tokens, V width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ..features import PromptFeatures
from ..scorer import ScoringModel


class TwoTowers(ScoringModel):
    """A scoring model whose prompts are encoded once for all pictures."""

    @abstractmethod
    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Token ids (B, L), mask (B, L) -> unit vectors (B, V)."""

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors (..., V), broadcast against each other -> scores (...): their cosine."""
        return (images * texts).sum(-1)

    def rewards_from_memory(self, memory: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Unit vectors (B, V), token ids (B, L), mask (B, L) -> scores (B,)."""
        return self.similarity(memory, self.encode_tokens(token_ids, mask))

    def _prompts_signature(self) -> str:
        return self._signature()

    def _pairs(self, memory: Tensor, prompts: PromptFeatures) -> Tensor:
        return self.similarity(memory, prompts.data)

    def _matrix(self, memory: Tensor, count: int, prompts: PromptFeatures) -> Tensor:
        return self.similarity(memory[None], prompts.data[:, None])  # (P, N)
