"""Scorers that see the image and read the prompt each alone, and compare two vectors.

Letters in shape comments: B batch, N images, P prompts, L text tokens, V width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ..scoring.features import PromptFeatures
from ..scoring.scoring_model import ScoringModel


class TwoTowers(ScoringModel):
    """A scoring model whose prompts are encoded once for all images."""

    @abstractmethod
    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Token ids (B, L), mask (B, L) -> unit vectors (B, V)."""

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors (..., V), broadcast against each other -> scores (...): their cosine."""
        return (images * texts).sum(-1)

    def rewards_from_kv(self, image_vectors: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Unit vectors (B, V), token ids (B, L), mask (B, L) -> scores (B,)."""
        return self.similarity(image_vectors, self.encode_tokens(token_ids, mask))

    def _prompts_signature(self) -> str:
        return self._signature()

    def _pairs(self, image_vectors: Tensor, prompts: PromptFeatures) -> Tensor:
        return self.similarity(image_vectors, _vectors(prompts))

    def _matrix(self, image_vectors: Tensor, count: int, prompts: PromptFeatures) -> Tensor:
        return self.similarity(image_vectors[None], _vectors(prompts)[:, None])  # (P, N)


def _vectors(prompts: PromptFeatures) -> Tensor:
    assert prompts.data is not None  # encode_tokens returned it
    return prompts.data
