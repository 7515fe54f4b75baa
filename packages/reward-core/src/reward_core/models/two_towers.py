"""Two-tower scorers, which encode images and prompts separately.

Letters in shape comments: B batch, N images, P prompts, L text tokens, V width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..scoring.features import PromptFeatures
from ..scoring.scoring_model import ScoringModel
from ..scoring.transfers import transfers_for


class TwoTowers(ScoringModel):
    """A scoring model whose prompts are encoded once for all images."""

    @abstractmethod
    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return unit vectors (B, V) of token ids (B, L) with mask (B, L)."""

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the cosines (...) of unit vectors (..., V), which are broadcast."""
        return (images * texts).sum(-1)

    def rewards_from_kv(self, image_vectors: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores (B,) of unit vectors (B, V), token ids (B, L) and mask (B, L)."""
        return self.similarity(image_vectors, self.encode_tokens(token_ids, mask))

    def _prompts_signature(self) -> str:
        return self._signature()

    def _pairs(self, image_vectors: Tensor, prompts: PromptFeatures) -> Tensor:
        return self.similarity(image_vectors, _vectors(prompts, self.device))

    def _matrix(self, image_vectors: Tensor, prompts: PromptFeatures) -> Tensor:
        return self.similarity(image_vectors[:, None], _vectors(prompts, self.device)[None])  # (B, P)


def _vectors(prompts: PromptFeatures, device: torch.device) -> Tensor:
    """Return the unit vectors of prompts on a device."""
    assert prompts.data is not None  # encode_tokens returned it
    return transfers_for(device).upload(prompts.data)
