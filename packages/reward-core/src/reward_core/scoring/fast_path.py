"""The steps of scoring, run either eagerly or compiled.

Both paths compute rewards without gradients. A model family can fuse more steps (see
models/imagereward/fast_path.py).

Shapes: B images of a batch, S image side, K prompts an image, L text tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .compiling import CompiledByShape, CompilePlan
from .steps import ModelSteps
from .transfers import Transfers, transfers_for
from .weights_identity import WeightsWatch

# Compiling the full-size vision encoder took 49 s on 2 cores and made it 13-20% faster. Freezing turns
# weights into constants, which inductor packs for the CPU.
CPU_PLAN = CompilePlan(seconds=49.0, saves=0.16, options={"freezing": True})
# Compiling a reward model took 27 s on an H200 and made a batch 11% faster.
CUDA_PLAN = CompilePlan(seconds=27.0, saves=0.11, shapes=16)
# For models with kernels of their own, which need no compiler and were recorded as graphs on an H200.
RECORD_ONLY = CompilePlan(seconds=math.inf, saves=1.0, shapes=16, graphs=True)
RECORD_FIXED_BATCH = replace(RECORD_ONLY, fixed_batch=True)


class PlainPath:
    """The steps run eagerly, without compiling."""

    def __init__(self, model: ModelSteps) -> None:
        self.model, self.device = model, model.device

    @property
    def transfers(self) -> Transfers:
        """Copies to and from the device."""
        return transfers_for(self.device)

    def encode(self, images: Tensor) -> Tensor:
        """Return image features (B, ...) of B stacked results of ``transform.prepare`` on the device."""
        return self.model.encode_pixels(self.model.transform.finish(images))

    def pair_rewards(self, features: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return rewards (B,) of features (B, ...) on the device and tokens (B, L) on the CPU."""
        upload, seen = self.transfers.upload, self.model.mask_to_upload(mask)
        ids, seen = upload(token_ids), None if seen is None else upload(seen)
        return self.rewards(self.project_kv(features), ids, seen)

    def project_kv(self, features: Tensor) -> Any:
        """Return the cross-attention keys and values of image features (B, ...)."""
        return self.model.project_kv(features)

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return rewards (B K,) of B images with K consecutive prompts each, (B K, L) on the device."""
        return self.model.rewards_from_kv(cross_attention_kv, token_ids, mask)

    def refresh(self) -> None:
        """Update the path if the weights changed since the last call."""

    def release_memory(self) -> None:
        """Give back memory that the path can do without, because a batch did not fit."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def warm_up(self, batch_size: int) -> bool:
        """Compile for this batch size; return whether every compilable step is compiled."""
        return False


class FastPath(PlainPath):
    """The steps with a compiled image encoder."""

    def __init__(self, model: ModelSteps, plan: CompilePlan | None = None) -> None:
        super().__init__(model)
        self.plan = plan or (CUDA_PLAN if model.device.type == "cuda" else CPU_PLAN)
        self.weights = WeightsWatch(model.parameters)
        self.refresh()

    def refresh(self) -> None:
        """Prepare again if the weights changed (see WeightsWatch)."""
        self.weights.if_changed(self.prepare)

    def prepare(self) -> None:
        """Compile again for new weights, which compiled functions hold as constants."""
        self.compiled_encode = CompiledByShape(self.eager_encode, self.plan)

    def encode(self, images: Tensor) -> Tensor:
        return self.compiled_encode(images)

    def eager_encode(self, images: Tensor) -> Tensor:
        """Return image features of prepared images, uncompiled."""
        return super().encode(images)

    def release_memory(self) -> None:
        self.compiled_encode.release()
        super().release_memory()

    def warm_up(self, batch_size: int) -> bool:
        with torch.no_grad(), self.transfers.active():
            return self.compiled_encode.compile_for(self._blank_images(batch_size))

    def _blank_images(self, count: int) -> Tensor:
        """Return images as ``transform.prepare`` returns them, stacked on the device."""
        transform = self.model.transform
        blank = transform.prepare(Image.new("RGB", (transform.size, transform.size)))
        return torch.stack([blank] * count).to(self.device)
