"""Protocols of what scoring needs from a model, independent of the model's class.

Shapes: B images in a batch, S image side, K prompts per image, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..inputs.image_transform import ImageTransform


class ModelSteps(Protocol):
    """A model that computes rewards from pixels and tokens in three steps."""

    config: Any
    training: bool
    transform: ImageTransform

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...) of normalized pixels (B, 3, S, S)."""
        ...

    def project_kv(self, features: Tensor) -> Any:
        """Return the cross-attention keys and values of image features (B, ...)."""
        ...

    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) of B images with K consecutive prompts each, (B K, L)."""
        ...

    def mask_to_upload(self, mask: Tensor) -> Tensor | None:
        """Return the mask (B, L) that the device needs of a mask on the CPU."""
        ...


class ScoringPath(Protocol):
    """The steps, eager or compiled (see fast_path.py)."""

    def refresh(self) -> None:
        """Update the path if the weights changed since the last call."""
        ...

    def release_memory(self) -> None:
        """Give back memory that the path can do without, because a batch did not fit."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return image features (B, ...) of B stacked results of ``transform.prepare`` on the device."""
        ...

    def pair_rewards(self, features: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return rewards (B,) of features (B, ...) on the device and tokens (B, L) on the CPU."""
        ...

    def project_kv(self, features: Tensor) -> Any:
        """Return the cross-attention keys and values of image features (B, ...)."""
        ...

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) of B images with K consecutive prompts each, (B K, L) on the device."""
        ...


class ImageEncoder(Protocol):
    """A model that the pipeline can encode images with."""

    transform: ImageTransform
    resize_on_device: bool

    @property
    def device(self) -> torch.device: ...

    def refused_images(self, features: Tensor) -> dict[int, str]:
        """Return why the model could not read some of B images, by index, from features (B, ...)."""
        ...
