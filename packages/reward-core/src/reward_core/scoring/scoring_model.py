"""The base of all scoring models.

A model implements three steps: ``encode_pixels``, ``project_kv`` (what does not depend on the prompt) and
``rewards_from_kv``; batching, ranking and reading of files are written once, in scoring_methods.py.

Letters in shape comments: B batch, S image side, L text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.image_transform import ImageTransform
from ..inputs.tokenizer import PromptTokenizer
from .batching import checked_batch_size
from .cpu import sensible_threads
from .fast_path import FastPath, PlainPath
from .precision import apply_precision
from .scoring_methods import ScoringMethods


class ScoringModel(ScoringMethods, nn.Module, ABC):
    """A model with the scoring methods.

    The scoring methods (score, inference_rank, score_pairs, score_matrix, score_rows, encode_images,
    encode_prompts) compute without gradients, in batches, and answer on the CPU. The differentiable methods
    (calling
    the model, rewards_from_pixels) answer on the model's device and let gradients pass to the pixels.

    Attributes:
        fast: whether the scoring methods fold, fuse and compile (see fast_path.py) or go step by step as
            the model is written. ``load(precision="fast")`` sets it.
        resize_on_device: images are shrunk by the GPU, within 1/255 of PIL, instead of by PIL.
    """

    transform: ImageTransform
    tokenizer: PromptTokenizer
    fast = False
    resize_on_device = False
    _path: PlainPath | None = None

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> image features (B, ...), whatever the next step reads."""

    def project_kv(self, features: Tensor) -> Any:
        """Image features (B, ...) -> whatever of their use is the same for every prompt."""
        return features

    @abstractmethod
    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """What ``project_kv`` gave, token ids (B, L), mask (B, L) -> rewards (B,) float32."""

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """The weights that ``encode_pixels`` and ``encode_tokens`` read: kept features go by them."""
        return self.parameters()

    def rewards_from_features(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Image features (B, ...), token ids (B, L), mask (B, L) -> rewards (B,) float32."""
        return self.rewards_from_kv(self.project_kv(features), token_ids, mask)

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """What can be computed of prompts without an image, (B, ...); None where nothing can."""
        return None

    def forward(self, pixels: Tensor, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised pixels (B, 3, S, S), token ids (B, L), mask (B, L) -> rewards (B,)."""
        return self.rewards_from_features(self.encode_pixels(pixels), token_ids, mask)

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards of float images, differentiable with respect to them.

        Args:
            pixels: (B, 3, H, W) in [0, 1], any H and W.
            prompts: B strings.

        Returns:
            (B,) float32 on the model's device.
        """
        token_ids, mask = self.tokenizer(prompts)
        if len(pixels) != len(token_ids):
            raise InputError(f"{len(prompts)} prompts but {len(pixels)} images")
        return self(self.transform(pixels.to(self.device)), token_ids.to(self.device), mask.to(self.device))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Bring the encoders' matrices to a dtype, in place (see scoring/precision.py)."""
        apply_precision(self, dtype)

    def fast_path(self) -> FastPath:
        """By what the scoring methods compute while ``fast`` is set."""
        return FastPath(self)

    def path(self) -> PlainPath:
        """By what the scoring methods compute: made when first needed, and anew for another device."""
        if not self.fast or self.training:  # dropout cannot be folded away
            return PlainPath(self)
        if self._path is None or self._path.device != self.device:
            self._path = self.fast_path()
        return self._path

    def warm_up(self, batch_size: int | None = None) -> bool:
        """Compile now what scoring in batches of this size needs, instead of when it has proved to pay.

        Returns whether it was compiled: False in "exact", and where it fails (a CompilationWarning says why).
        """
        with sensible_threads():
            return self.path().warm_up(checked_batch_size(batch_size, self.device))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_path": None, "_fingerprint": None}  # compiled code stays where it was made
