"""The steps of scoring, run either eagerly or compiled.

Both paths compute rewards without gradients. A model family can fuse more steps (see
models/imagereward/fast_path.py).

Shapes: B images of a batch, S image side, K prompts an image, L text tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cuda
from .compiling import CompiledByShape, CompilePlan
from .steps import ModelSteps
from .weights_identity import WeightsWatch

# Compiling the full-size vision encoder took 49 s on 2 cores and made it 13-20% faster, so it pays after
# about 300 s of scoring. Freezing turns weights into constants, which inductor packs for the CPU.
CPU_PLAN = CompilePlan(after=300.0, options={"freezing": True})


class PlainPath:
    """The steps run eagerly, without compiling."""

    def __init__(self, model: ModelSteps) -> None:
        self.model, self.device = model, model.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Return image features (B, ...) of normalized pixels (B, 3, S, S)."""
        return self.model.encode_pixels(pixels)

    def project_kv(self, features: Tensor) -> Any:
        """Return the cross-attention keys and values of image features (B, ...)."""
        return self.model.project_kv(features)

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) of B images with K consecutive prompts each, (B K, L)."""
        return self.model.rewards_from_kv(cross_attention_kv, token_ids, mask)

    def refresh(self) -> None:
        """Update the path if the weights changed since the last call."""

    def warm_up(self, batch_size: int) -> bool:
        """Compile for this batch size; return whether every compilable step is compiled."""
        return False


class FastPath(PlainPath):
    """The steps with a compiled image encoder."""

    def __init__(self, model: ModelSteps, plan: CompilePlan | None = None) -> None:
        super().__init__(model)
        self.plan = plan or (cuda.PLAN if model.device.type == "cuda" else CPU_PLAN)
        self.weights = WeightsWatch(model.parameters)
        self.refresh()

    def refresh(self) -> None:
        """Prepare again if the weights changed (see WeightsWatch)."""
        if self.weights.changed():
            self.prepare()

    def prepare(self) -> None:
        """Compile again for new weights, which compiled functions hold as constants."""
        self.compiled_encode = CompiledByShape(self.model.encode_pixels, self.plan)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.compiled_encode(pixels.contiguous())  # pixels decoded from files are channels-last

    def warm_up(self, batch_size: int) -> bool:
        size, parameter = self.model.config.image_size, next(self.model.parameters())
        with torch.no_grad():
            pixels = torch.zeros(batch_size, 3, size, size, device=parameter.device)
            return self.compiled_encode.compile_for(pixels)
