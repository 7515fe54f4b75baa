"""The base class of all scoring models.

A model implements three steps: ``encode_pixels``, ``project_kv`` (independent of the prompt) and
``rewards_from_kv``. Batching, ranking and reading files are in scoring_methods.py.

Shapes: B images with one prompt each, S image side, L text tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.pixel_range import refuse_levels
from ..network.score_quantiles import ScoreQuantiles
from ..runs.cuda import upload
from .batching import checked_batch_size
from .cpu import sensible_threads
from .fast_path import FastPath, PlainPath
from .model_source import ModelSource
from .precision import apply_precision
from .scoring_methods import ScoringMethods


class ScoringModel(ScoringMethods, nn.Module):
    """A torch module with scoring methods and differentiable methods.

    The scoring methods (score, inference_rank, score_pairs, score_matrix, score_rows, encode_images,
    encode_prompts) compute in batches, without gradients, and return results on the CPU. The differentiable
    methods (calling the model, rewards_from_pixels) return results on the model's device, with gradients down
    to the pixels.

    Attributes:
        fast: whether the scoring methods fuse and compile the steps (see fast_path.py).
            ``load(precision="fast")`` sets it.
        source: origin of the weights; None for a model that was not loaded from files.
        int8: whether the scoring methods compute the encoders' linear layers in int8.
            ``load(precision="int8")`` sets it.
        resize_on_device: whether a CUDA GPU with Triton resizes images, exactly as PIL does.
        can_be_recorded: whether a call of the model never waits for the device, so that CUDA graphs can
            replay it.
    """

    can_be_recorded: ClassVar[bool] = False
    fast = False
    source: ModelSource | None = None
    int8 = False
    resize_on_device = True
    _path: PlainPath | None = None

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...) of normalized pixels (B, 3, S, S)."""

    def project_kv(self, features: Tensor) -> Any:
        """Return the cross-attention keys and values of image features (B, ...)."""
        return features

    @abstractmethod
    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B,) in float32 from the result of ``project_kv``.

        Token ids and mask are (B, L).
        """

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the encode methods use."""
        return self.parameters()

    def encoder_key(self) -> tuple[Any, ...]:
        """Return a key that is equal for models whose image features are interchangeable."""
        dtypes = tuple(parameter.dtype for parameter in self.feature_parameters())
        path = self.fast, self.int8, self.training
        return self._signature(), self.device, dtypes, path, self.transform.key

    def rewards_from_features(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B,) in float32 of image features (B, ...) and tokens (B, L)."""
        return self.rewards_from_kv(self.project_kv(features), token_ids, mask)

    def mask_to_upload(self, mask: Tensor) -> Tensor | None:
        """Return the mask (B, L) that the device needs of a mask on the CPU.

        Models whose network computes differently without padding decide it here, so that nothing waits for
        the device.
        """
        return mask

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return text features of prompts (B, L), or None if they depend on the image."""
        return None

    def forward(self, pixels: Tensor, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return rewards (B,) of normalized pixels (B, 3, S, S) and tokens (B, L)."""
        return self.rewards_from_features(self.encode_pixels(pixels), token_ids, mask)

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards of float images, differentiable with respect to the pixels.

        Args:
            pixels: (B, 3, H, W) in [0, 1], any H and W.
            prompts: B strings.

        Returns:
            (B,) float32 on the model's device.

        Raises:
            InputError: unequal numbers of images and prompts, or pixels of another shape, dtype or range (the
                range of pixels on a GPU is not checked).
        """
        refuse_levels(pixels)
        token_ids, mask = self.tokenizer(prompts)
        levels = self.transform(pixels.to(self.device))
        if len(levels) != len(token_ids):
            raise InputError(
                f"Cannot score the pairs: got {len(prompts)} prompts but {len(pixels)} images. "
                "Give one prompt for each image."
            )
        seen = self.mask_to_upload(mask)
        return self(
            levels, upload(token_ids, self.device), None if seen is None else upload(seen, self.device)
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def use_int8(self) -> None:
        """Let the scoring methods compute the encoders' linear layers in int8. The weights do not change.

        Raises:
            InputError: the model or its device does not support it.
        """
        raise InputError(
            f"Cannot use precision 'int8' with a {type(self).__name__}: only reward models with BLIP's "
            "encoders support it. Use precision 'fast' or 'exact'."
        )

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoders' matrices to a dtype, in place (see precision.py)."""
        apply_precision(self, dtype)

    def convert_for_autocast(self, dtype: torch.dtype) -> None:
        """Convert weights that autocast would cast in every call, in place; results under it stay the same.

        Models that do not override it convert nothing.

        Args:
            dtype: dtype of autocast.
        """

    def fast_path(self) -> FastPath:
        """Return the compiled steps. Model families override it to fuse more."""
        return FastPath(self)

    def path(self, reproducible: bool = False) -> PlainPath:
        """Return the steps of scoring: fused or compiled if ``fast`` or ``int8`` is set, otherwise eager.

        The compiled steps are built at first use, and again after a change of device.

        Args:
            reproducible: return steps that compute the same values in every run.
        """
        fused = self.int8 or (self.fast and not reproducible)
        if not fused or self.training:  # a fused head has no dropout
            return PlainPath(self)
        path, device = self._path, self.device
        if path is not None and path.device == device:
            return path
        with self._first_use():  # not while the path computes, which holds the locks of its graphs
            if self._path is None or self._path.device != device:
                self._path = self.fast_path()
            return self._path

    @property
    def score_quantiles(self) -> ScoreQuantiles | None:
        """Quantiles of reference scores, or None if the distribution of scores was not measured."""
        return None

    def percentile(self, score: float) -> float | None:
        """Return the percentage of reference scores below ``score``, or None without reference scores.

        ``score_quantiles.source`` names the reference scores.
        """
        return None if self.score_quantiles is None else self.score_quantiles.percentile(score)

    def warm_up(self, batch_size: int | None = None) -> bool:
        """Compile the model for this batch size now instead of during scoring.

        Returns:
            Whether it was compiled. False with precision "exact", or if compiling failed (the reason is in a
            CompilationWarning).
        """
        with sensible_threads():
            return self.path().warm_up(checked_batch_size(batch_size, self.device))

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_path": None, "_fingerprint": None}  # compiled code cannot be copied
        state.pop("_lock", None)
        return state
