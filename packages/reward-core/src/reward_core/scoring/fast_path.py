"""How scoring methods compute: the model's own steps, or the same steps compiled.

Both give rewards without gradients. A family may fuse more (models/imagereward/fast_path.py).

Letters in shape comments: B batch, S image side, L text tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cuda
from .compiling import CompiledByShape, CompilePlan
from .steps import ModelSteps
from .weights_identity import WeightsWatch

# Compiling the vision encoder at full size took 49 s on 2 cores and gained 13-20%, so it pays after about
# 300 s of scoring. With freezing, weights become constants, packed as the processor likes them.
CPU_PLAN = CompilePlan(after=300.0, options={"freezing": True})


class PlainPath:
    """Exactly the model's own steps."""

    def __init__(self, model: ModelSteps) -> None:
        self.model, self.device = model, model.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> image features (B, ...)."""
        return self.model.encode_pixels(pixels)

    def project_kv(self, features: Tensor) -> Any:
        """Image features (B, ...) -> whatever of them is the same for all prompts."""
        return self.model.project_kv(features)

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Memory of B images, token ids (B K, L), mask -> rewards (B K,), K prompts of each in a row."""
        return self.model.rewards_from_kv(cross_attention_kv, token_ids, mask)

    def refresh(self) -> None:
        """Notice weights that changed since the last time."""

    def warm_up(self, batch_size: int) -> bool:
        """Get ready for batches of this size; whether all that can be compiled is."""
        return False


class FastPath(PlainPath):
    """Any model, its encoding of images compiled."""

    def __init__(self, model: ModelSteps, plan: CompilePlan | None = None) -> None:
        super().__init__(model)
        self.plan = plan or (cuda.PLAN if model.device.type == "cuda" else CPU_PLAN)
        self.weights = WeightsWatch(model.parameters)
        self.refresh()

    def refresh(self) -> None:
        """Fold and freeze again if the weights changed since (see WeightsWatch for what is noticed)."""
        if self.weights.changed():
            self.prepare()

    def prepare(self) -> None:
        self.compiled_encode = CompiledByShape(self.model.encode_pixels, self.plan)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.compiled_encode(pixels.contiguous())  # of files it comes channels-last

    def warm_up(self, batch_size: int) -> bool:
        size, parameter = self.model.config.image_size, next(self.model.parameters())
        with torch.no_grad():
            pixels = torch.zeros(batch_size, 3, size, size, device=parameter.device)
            return self.compiled_encode.compile_for(pixels)
