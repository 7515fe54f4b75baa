"""The base of all scoring models.

A model implements three steps: ``encode_pixels``, ``project_kv`` (what does not depend on the prompt) and
``rewards_from_kv``. Batching, ranking and reading of files are written once, in scoring_methods.py.

Shapes: B images with a prompt each, S image side, L text tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .batching import checked_batch_size
from .cpu import sensible_threads
from .fast_path import FastPath, PlainPath
from .precision import apply_precision
from .scoring_methods import ScoringMethods


class ScoringModel(ScoringMethods, nn.Module):
    """A torch module with the scoring methods and the differentiable methods.

    The scoring methods (score, inference_rank, score_pairs, score_matrix, score_rows, encode_images,
    encode_prompts) compute in batches, without gradients, and return results on the CPU. The differentiable
    methods (calling the model, rewards_from_pixels) return results on the model's device, with gradients down
    to the pixels.

    Attributes:
        fast: whether the scoring methods fuse and compile the steps (see fast_path.py) or compute them as the
            model is written. ``load(precision="fast")`` sets it.
        resize_on_device: whether a GPU resizes images, within 1/255 of PIL, instead of PIL.
    """

    fast = False
    resize_on_device = False
    _path: PlainPath | None = None

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...), in any form that the next step reads, of pixels (B, 3, S, S)."""

    def project_kv(self, features: Tensor) -> Any:
        """Return what rewards read of image features (B, ...), the same for every prompt."""
        return features

    @abstractmethod
    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B,) in float32 from ``project_kv`` of images, token ids (B, L) and mask (B, L)."""

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that cached features depend on: those of both encode methods."""
        return self.parameters()

    def rewards_from_features(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B,) in float32 of image features (B, ...), token ids (B, L) and mask (B, L)."""
        return self.rewards_from_kv(self.project_kv(features), token_ids, mask)

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return what can be computed of prompts (B, L) without an image; None if nothing can."""
        return None

    def forward(self, pixels: Tensor, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return rewards (B,) of normalized pixels (B, 3, S, S), token ids (B, L) and mask (B, L)."""
        return self.rewards_from_features(self.encode_pixels(pixels), token_ids, mask)

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards of float images, differentiable with respect to them.

        Args:
            pixels: (B, 3, H, W) in [0, 1], any H and W.
            prompts: B strings.

        Returns:
            (B,) float32 on the model's device.

        Raises:
            InputError: unequal numbers of images and prompts.
        """
        token_ids, mask = self.tokenizer(prompts)
        if len(pixels) != len(token_ids):
            raise InputError(f"{len(prompts)} prompts but {len(pixels)} images")
        return self(self.transform(pixels.to(self.device)), token_ids.to(self.device), mask.to(self.device))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoders' matrices to a dtype, in place (see precision.py)."""
        apply_precision(self, dtype)

    def fast_path(self) -> FastPath:
        """Return the compiled steps; a family may fuse more."""
        return FastPath(self)

    def path(self) -> PlainPath:
        """Return the steps that the scoring methods compute: plain, or compiled while ``fast`` is set.

        The compiled ones are built at first use and again for another device.
        """
        if not self.fast or self.training:  # a fused head has no dropout
            return PlainPath(self)
        if self._path is None or self._path.device != self.device:
            self._path = self.fast_path()
        return self._path

    def warm_up(self, batch_size: int | None = None) -> bool:
        """Compile now what scoring in batches of this size needs, instead of once it has cost enough time.

        Returns:
            Whether it was compiled: False in "exact", and if compiling fails (a CompilationWarning says why).
        """
        with sensible_threads():
            return self.path().warm_up(checked_batch_size(batch_size, self.device))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_path": None, "_fingerprint": None}  # compiled code cannot be copied
