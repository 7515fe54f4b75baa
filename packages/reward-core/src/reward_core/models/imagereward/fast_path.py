"""The fast path of ImageReward: fused head, fused keys and values, few text lengths.

Letters in shape comments: B batch, S image side, N image tokens, E image width, D text width, L text tokens.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...network.blip import Blip
from ...network.config import RewardConfig
from ...network.reward_head import RewardHead
from ...scoring.compiling import CompiledByShape, CompilePlan
from ...scoring.fast_path import FastPath
from ...scoring.steps import ModelSteps


class RewardParts(ModelSteps, Protocol):
    """What the fast path fuses: the parts of `reward_model.RewardModel`."""

    config: RewardConfig
    blip: Blip
    mlp: RewardHead


class RewardFastPath(FastPath):
    """A reward model: fused head, one linear layer for all keys and values, text in few lengths.

    Args:
        model: in evaluation mode.
        plan: how and when to compile; by default what suits the model's device.
        on_gpu: whether to do what gains on a GPU only: the one product for keys and values (on a CPU it
            ran at 0.67 TFLOP/s, the 24 single ones at 0.94), padding prompts to a few lengths, and
            compiling the text encoder for each of them.
    """

    model: RewardParts

    def __init__(
        self, model: RewardParts, plan: CompilePlan | None = None, on_gpu: bool | None = None
    ) -> None:
        self.on_gpu = model.device.type == "cuda" if on_gpu is None else on_gpu
        super().__init__(model, plan)

    def prepare(self) -> None:
        super().prepare()
        self.head = fused_head(self.model.mlp)
        self.keys_values = self.model.blip.text_encoder.fused_cross_attention_kv() if self.on_gpu else None
        self.compiled_read = CompiledByShape(self._read, self.plan)

    def project_kv(self, features: Tensor) -> Any:
        if self.keys_values is None:
            return super().project_kv(features)
        weight, bias = self.keys_values
        return F.linear(features.to(weight.dtype), weight, bias)  # (B, N, 2 D of each layer in turn)

    def rewards(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        if self.on_gpu:
            token_ids, mask = in_bucket(token_ids, mask, self.model.config.max_length)
            raw = self.compiled_read(cross_attention_kv, token_ids, mask)
        else:
            raw = self._read(cross_attention_kv, token_ids, mask)
        return (raw - self.model.config.reward_mean) / self.model.config.reward_std

    def _read(self, cross_attention_kv: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        feature = self.model.blip.fuse(cross_attention_kv, token_ids, mask)  # (B, D)
        weight, bias = self.head
        return feature.float() @ weight + bias

    def warm_up(self, batch_size: int) -> bool:
        ready = super().warm_up(batch_size)
        if not self.on_gpu:
            return ready
        with torch.no_grad():
            size, device = self.model.config.image_size, self.model.device
            cross_attention_kv = self.project_kv(
                self.encode(torch.zeros(batch_size, 3, size, size, device=device))
            )
            for length in buckets(self.model.config.max_length):
                ids = torch.zeros(batch_size, length, dtype=torch.int64, device=device)
                ready &= self.compiled_read.compile_for(cross_attention_kv, ids, torch.ones_like(ids))
        return ready


def fused_head(head: RewardHead) -> tuple[Tensor, Tensor]:
    """The head's linear layers as one affine map in float32: weight (D,), bias ().

    Multiplied in float64, so that folding adds nothing to the head's own rounding.
    """
    layers = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
    weight, bias = layers[-1].weight.double(), layers[-1].bias.double()
    for layer in reversed(layers[:-1]):
        bias = bias + weight @ layer.bias.double()
        weight = weight @ layer.weight.double()
    return weight[0].float().detach(), bias[0].float().detach()


def buckets(max_length: int) -> tuple[int, ...]:
    """The lengths to which prompts are padded: each is one compilation."""
    return (*(length for length in (12, 16, 24) if length < max_length), max_length)


def in_bucket(token_ids: Tensor, mask: Tensor | None, max_length: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and mask, padded to the next of ``buckets``."""
    length = token_ids.shape[1]
    wanted = next((bucket for bucket in buckets(max_length) if bucket >= length), length)
    mask = torch.ones_like(token_ids) if mask is None else mask
    return F.pad(token_ids, (0, wanted - length)), F.pad(mask, (0, wanted - length))
