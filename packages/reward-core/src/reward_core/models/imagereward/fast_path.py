"""The fast path of ImageReward: fused layers, 16 or 8 bits, and prompts of few lengths.

Shapes: B texts, M images (B, or a divisor of B), S image side, N image tokens, E image width, D text width,
T text layers, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...network.blip import Blip
from ...network.compiled_kernels import ready_kernels
from ...network.config import RewardConfig
from ...network.cpu_ops import CpuOps, packing_works
from ...network.fused_encoders import FusedKeysValues, FusedTextEncoder, FusedVisionEncoder
from ...network.fused_ops import FusedOps, GpuOps
from ...network.int8_ops import Int8Ops
from ...network.reward_head import RewardHead
from ...network.text_encoder import KeysValues, TextEncoder
from ...network.vision_encoder import VisionEncoder
from ...runs.triton_kernels import triton_runs_on
from ...scoring.compiling import CompiledByShape, CompilePlan
from ...scoring.fast_path import RECORD_ONLY, FastPath
from ...scoring.kernel_choice import KernelChoice
from ...scoring.precision import check_int8, encoder_dtype
from ...scoring.steps import ModelSteps

_WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class RewardParts(ModelSteps, Protocol):
    """The parts of `reward_model.RewardModel` that the fast path uses."""

    config: RewardConfig
    blip: Blip
    mlp: RewardHead
    int8: bool


class RewardFastPath(FastPath):
    """The steps of a reward model with fused layers.

    Args:
        model: reward model in evaluation mode.
        plan: how and when to compile; the default depends on the model's device.
        on_gpu: whether to use optimizations that pay only on a GPU: one linear layer for the keys and values
            of all text layers (on a CPU it ran at 0.67 TFLOP/s, the 24 separate layers at 0.94), and prompts
            padded to a few lengths. The default depends on the device.
    """

    model: RewardParts

    def __init__(
        self, model: RewardParts, plan: CompilePlan | None = None, on_gpu: bool | None = None
    ) -> None:
        self.on_gpu = model.device.type == "cuda" if on_gpu is None else on_gpu
        if plan is None and can_fuse(model):
            plan = RECORD_ONLY
        super().__init__(model, plan)

    def prepare(self) -> None:
        blip = self.model.blip
        self.head = fused_head(self.model.mlp) if self.model.mlp.is_affine else None
        self.fused_kv = fused_cross_attention_kv(blip.text_encoder) if self.on_gpu else None
        self.vision: FusedVisionEncoder | None = None
        self.text: FusedTextEncoder | None = None
        self.image_kv: FusedKeysValues | None = None
        self.kernels: KernelChoice | None = None
        encoder = blip.visual_encoder
        if isinstance(encoder, VisionEncoder) and can_fuse(self.model):
            self._fuse(encoder)
        self.compiled_pairs = CompiledByShape(self._raw_pairs, self.plan)
        super().prepare()

    def _fuse(self, encoder: VisionEncoder) -> None:
        """Build the fused encoders for the device."""
        blip, transform = self.model.blip, self.model.transform
        dtype = encoder.patch_embed.proj.weight.dtype
        image_ops: FusedOps = GpuOps(dtype)
        text_ops: FusedOps | None = image_ops
        if self.device.type == "cpu":
            kernels, dtype = ready_kernels(), torch.bfloat16 if has_bf16_units() else torch.float32
            bf16, int8 = CpuOps(kernels), Int8Ops(kernels)
            self.kernels = KernelChoice(bf16, int8)
            image_ops = text_ops = bf16
            if self.model.int8:
                self.kernels.compile()  # from the start, so that results do not change during a run
                # In int8, errors of the text encoder would reach the reward through a single token.
                image_ops, text_ops = int8, bf16 if has_bf16_units() else None
        self.vision = FusedVisionEncoder(encoder, transform.mean, transform.std, image_ops, dtype)
        text = blip.text_encoder
        self.text = None if text_ops is None else FusedTextEncoder(text, text_ops)
        self.image_kv = FusedKeysValues(text, image_ops) if self.fused_kv is None else None

    def encode(self, images: Tensor) -> Tensor:
        if self.kernels is None:
            return super().encode(images)
        return self.kernels.run(self.eager_encode, images)

    def eager_encode(self, images: Tensor) -> Tensor:
        return super().eager_encode(images) if self.vision is None else self.vision(images)

    def project_kv(self, features: Tensor) -> Any:
        """Return keys and values (M, N, D) of each text layer for image tokens (M, N, E)."""
        if self.image_kv is not None:
            kv = self.image_kv(features)
            return kv if self.text is not None else [(key.float(), value.float()) for key, value in kv]
        if self.fused_kv is None:
            return super().project_kv(features)
        weight, bias = self.fused_kv
        fused = F.linear(features.to(weight.dtype), weight, bias)
        return split_kv(fused, self.model.config.text.hidden_size)

    def pair_rewards(self, features: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        if not self.on_gpu:
            return super().pair_rewards(features, token_ids, mask)
        token_ids, mask = in_bucket(token_ids, mask, self.model.config.max_length)
        upload = self.transfers.upload
        return self._normalized(self.compiled_pairs(features, upload(token_ids), upload(mask)))

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        # cuDNN prepares each new shape for a good part of a second, and numbers of prompts vary.
        with sdpa_kernel(_WITHOUT_CUDNN) if self.device.type == "cuda" else nullcontext():
            return self._normalized(self._raw_rewards(cross_attention_kv, token_ids, mask))

    def _raw_pairs(self, features: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        return self._raw_rewards(self.project_kv(features), token_ids, mask)

    def _raw_rewards(
        self, cross_attention_kv: Sequence[KeysValues], token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        encode = self.model.blip.fuse if self.text is None else self.text
        return self._head(encode(cross_attention_kv, token_ids, mask))

    def _head(self, feature: Tensor) -> Tensor:
        """Return raw rewards (B,) of text features (B, D)."""
        if self.head is None:
            return self.model.mlp(feature)
        weight, bias = self.head
        return feature.float() @ weight + bias

    def _normalized(self, raw: Tensor) -> Tensor:
        return (raw - self.model.config.reward_mean) / self.model.config.reward_std

    def release_memory(self) -> None:
        self.compiled_pairs.release()
        super().release_memory()

    def warm_up(self, batch_size: int) -> bool:
        if self.kernels is not None:
            return self.kernels.compile()
        ready = super().warm_up(batch_size)
        if not self.on_gpu:
            return ready
        with torch.no_grad(), self.transfers.active():
            features = self.encode(self._blank_images(batch_size))
            for length in buckets(self.model.config.max_length):
                ids = torch.zeros(batch_size, length, dtype=torch.int64, device=self.device)
                ready &= self.compiled_pairs.compile_for(features, ids, torch.ones_like(ids))
        return ready


def can_fuse(model: RewardParts) -> bool:
    """Return whether fused encoders compute this model on its device.

    Raises:
        InputError: the model is in int8, and the device does not support it.
    """
    if model.int8:
        check_int8(model.device)
        return True
    encoder = model.blip.visual_encoder
    if type(encoder) is not VisionEncoder:
        return False
    dtype = encoder.patch_embed.proj.weight.dtype
    if model.device.type == "cpu":
        return dtype == torch.bfloat16 and packing_works()
    sixteen_bits = dtype in (torch.bfloat16, torch.float16)
    return sixteen_bits and triton_runs_on(model.device)


def has_bf16_units() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices faster than float32."""
    return encoder_dtype("fast", torch.device("cpu")) == torch.bfloat16 and packing_works()


def fused_head(head: RewardHead) -> tuple[Tensor, Tensor]:
    """Fuse the linear layers of the head into float32 weight (D,) and bias ().

    The product is computed in float64, so that fusing adds no rounding errors.
    """
    layers = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
    weight, bias = layers[-1].weight.double(), layers[-1].bias.double()
    for layer in reversed(layers[:-1]):
        bias = bias + weight @ layer.bias.double()
        weight = weight @ layer.weight.double()
    return weight[0].float().detach(), bias[0].float().detach()


def fused_cross_attention_kv(encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    """Fuse ``encoder.project_kv`` into weight (2 T D, E) and bias (2 T D,)."""
    layers = [layer.crossattention.self[name] for layer in encoder.encoder.layer for name in ("key", "value")]
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return weight.detach(), bias.detach()


def split_kv(fused_kv: Tensor, width: int) -> list[KeysValues]:
    """Split fused keys and values (M, N, 2 T D) into (M, N, D) of each layer."""
    parts = fused_kv.split(width, dim=-1)
    return list(zip(parts[::2], parts[1::2]))


def buckets(max_length: int) -> tuple[int, ...]:
    """Return the lengths that prompts are padded to. Each length is compiled once."""
    return (16, max_length) if max_length > 16 else (max_length,)


def in_bucket(token_ids: Tensor, mask: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """Return token ids and mask (B, L), padded to the next length of ``buckets``."""
    length = token_ids.shape[1]
    padded = next((bucket for bucket in buckets(max_length) if bucket >= length), length)
    return F.pad(token_ids, (0, padded - length)), F.pad(mask, (0, padded - length))
