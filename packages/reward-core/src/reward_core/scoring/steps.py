"""What scoring asks of a model, as protocols, so that the parts of scoring need not know its class.

Letters in shape comments: B batch, S image side, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..inputs.image_transform import ImageTransform


class ModelSteps(Protocol):
    """The steps from pixels and tokens to rewards."""

    config: Any
    training: bool

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (B, 3, S, S) -> image features (B, ...)."""

    def project_kv(self, features: Tensor) -> Any:
        """Image features (B, ...) -> what does not depend on the prompt."""

    def rewards_from_kv(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """What ``project_kv`` gave, token ids (B, L), mask (B, L) -> rewards (B,)."""


class ScoringPath(Protocol):
    """How the steps are computed: as the model is written, or compiled (see fast_path.py)."""

    def refresh(self) -> None:
        """Notice weights that changed since the last time."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (B, 3, S, S) -> image features (B, ...)."""


class ImageEncoder(Protocol):
    """What the pipeline needs of a model to turn images into features."""

    transform: ImageTransform
    resize_on_device: bool

    @property
    def device(self) -> torch.device: ...

    def path(self) -> ScoringPath: ...
