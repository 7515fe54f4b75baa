"""What scoring asks of a model, as protocols, so that its parts need not know the model's class.

Shapes: B images of a batch, S image side, K prompts an image, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..inputs.image_transform import ImageTransform


class ModelSteps(Protocol):
    """A model that computes rewards of pixels and tokens in three steps."""

    config: Any
    training: bool

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...) of normalized pixels (B, 3, S, S)."""
        ...

    def project_kv(self, features: Tensor) -> Any:
        """Return what rewards read of image features (B, ...), the same for every prompt."""
        ...

    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) from ``project_kv`` of B images and K prompts for each in a row, (B K, L)."""
        ...


class ScoringPath(Protocol):
    """How the steps are computed: as the model is written, or compiled (see fast_path.py)."""

    def refresh(self) -> None:
        """Notice weights that changed since the last call."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...) of normalized pixels (B, 3, S, S)."""
        ...

    def project_kv(self, features: Tensor) -> Any:
        """Return what rewards read of image features (B, ...), the same for every prompt."""
        ...

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) from ``project_kv`` of B images and K prompts for each in a row, (B K, L)."""
        ...


class ImageEncoder(Protocol):
    """What the pipeline needs of a model to turn images into features."""

    transform: ImageTransform
    resize_on_device: bool

    @property
    def device(self) -> torch.device: ...

    def path(self) -> ScoringPath: ...
