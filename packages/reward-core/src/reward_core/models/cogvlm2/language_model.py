"""CogVLM2's language model: Llama 3 with a second set of weights, the vision expert, for image tokens.

The tokens of a question follow a prefix: begin of text, begin of image, the image, end of image. The vision
expert computes begin of image and image tokens, the language expert all others. Attention is causal and reads
keys and values of both experts, so those of the prefix are the same for every question.

Shapes: B images, P tokens of the prefix, T tokens of all questions together, E width, H heads, K heads of
keys and values, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...network.layers import run_block
from ...network.text_encoder import Embedding
from .config import CogVlm2Config
from .rotary import Rotary, rotary_table, rotate

KeysValues: TypeAlias = tuple[Tensor, Tensor]  # keys and values of a prefix, (B, K, P, W) each
ExpertStep: TypeAlias = "Callable[[Expert, Tensor], Tensor]"

FIRST_TEXT_POSITION = 4  # the prefix has the positions 0, 1, 2 (all image tokens) and 3


class LanguageModel(nn.Module):
    """Llama with vision experts: keys and values of prefixes, and states of question tokens.

    Attributes:
        gradient_checkpointing: run the layers again in the backward pass instead of saving activations.
    """

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embedding = Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(LanguageLayer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def encode_prefix(self, image_tokens: Tensor, begin_of_text: int) -> list[KeysValues]:
        """Return keys and values of each layer for the prefixes of B images.

        Args:
            image_tokens: (B, P - 1, E) from begin to end of image.
            begin_of_text: id of that token.
        """
        first = self.embedding.weight[begin_of_text].expand(len(image_tokens), 1, -1)
        x = torch.cat([first, image_tokens], dim=1)  # (B, P, E)
        rotary = self._rotary(prefix_positions(x.shape[1], x.device), x.dtype)
        prefix = []
        for layer in self.layers:
            x, keys, values = run_block(layer, x, rotary, gradient_checkpointing=self.gradient_checkpointing)
            prefix.append((keys, values))
        return prefix

    def forward(
        self, token_ids: Tensor, positions: Tensor, mask: Tensor, prefix: Sequence[KeysValues]
    ) -> Tensor:
        """Return the normalized last states (B, T, E) of question tokens after the prefixes of B images.

        Args:
            token_ids: (T,), the questions one after the other.
            positions: (T,) position of each token.
            mask: (T, T) boolean, True where the token of the row attends to the token of the column. All
                tokens attend to the prefix.
            prefix: result of ``encode_prefix``.
        """
        images, _, length, _ = prefix[0][0].shape
        x = self.embedding(token_ids).expand(images, -1, -1)  # (B, T, E)
        rotary = self._rotary(positions, x.dtype)
        mask = F.pad(mask, (length, 0), value=True)  # (T, P + T)
        for layer, keys_values in zip(self.layers, prefix):
            x, *_ = run_block(
                layer, x, rotary, keys_values, mask, gradient_checkpointing=self.gradient_checkpointing
            )
        return self.norm(x)

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> Rotary:
        return rotary_table(positions, self.config.head_width, self.config.rope_theta, dtype)


def prefix_positions(length: int, device: torch.device) -> Tensor:
    """Return the positions (P,) of a prefix: 0 and 1, 2 for all image tokens, 3."""
    positions = torch.full((length,), 2, device=device)
    positions[0], positions[1], positions[-1] = 0, 1, FIRST_TEXT_POSITION - 1
    return positions


class LanguageLayer(nn.Module):
    """Self-attention and gated MLP, each after an RMSNorm, with the weights of two experts."""

    def __init__(self, config: CogVlm2Config):
        super().__init__()
        self.config = config
        self.attention_norm = RMSNorm(config.width, config.rms_norm_eps)
        self.mlp_norm = RMSNorm(config.width, config.rms_norm_eps)
        self.language_expert = Expert(config, qkv_bias=False)
        self.vision_expert = Expert(config, qkv_bias=True)

    def forward(
        self, x: Tensor, rotary: Rotary, prefix: KeysValues | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens after this layer, and their keys and values.

        Args:
            x: (B, P, E) prefixes or, with ``prefix`` and ``mask``, (B, T, E) question tokens.
            rotary: cosines and sines of the positions.
            prefix: keys and values of the prefixes.
            mask: (T, P + T) boolean, True for the tokens to attend to.
        """
        route = self._route_prefix if prefix is None else self._route_text
        query, key, value = self._split_heads(route(Expert.project_qkv, self.attention_norm(x)))
        query, key = rotate(query, rotary), rotate(key, rotary)
        keys, values = key, value
        if prefix is not None:
            keys, values = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
        attended = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )  # (B, H, T, W)
        x = x + route(Expert.project_attended, attended.transpose(1, 2).flatten(2))
        x = x + route(Expert.mlp, self.mlp_norm(x))
        return x, key, value

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return queries (B, H, T, W), keys and values (B, K, T, W) of rows (B, T, (H + 2 K) W)."""
        heads = qkv.unflatten(-1, (-1, self.config.head_width)).transpose(1, 2)  # (B, H + 2 K, T, W)
        return heads.split([self.config.heads, self.config.kv_heads, self.config.kv_heads], dim=1)

    def _route_text(self, step: ExpertStep, x: Tensor) -> Tensor:
        return step(self.language_expert, x)

    def _route_prefix(self, step: ExpertStep, x: Tensor) -> Tensor:
        """Apply a step to prefixes: the vision expert to all tokens except the first and the last one."""
        text = step(self.language_expert, x[:, [0, -1]])
        image = step(self.vision_expert, x[:, 1:-1])
        return torch.cat([text[:, :1], image, text[:, 1:]], dim=1)


class Expert(nn.Module):
    """The linear layers of one expert in one layer, without biases except for a qkv bias if wanted.

    Its weights may be on another device than the tokens. They are then copied for each step.
    """

    def __init__(self, config: CogVlm2Config, qkv_bias: bool):
        super().__init__()
        width = config.width
        rows = (config.heads + 2 * config.kv_heads) * config.head_width
        self.qkv = nn.Linear(width, rows, bias=qkv_bias)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, config.mlp, bias=False)
        self.up = nn.Linear(width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, width, bias=False)

    def project_qkv(self, x: Tensor) -> Tensor:
        """Return queries, keys and values side by side, for normalized tokens (B, T, E)."""
        return _linear(self.qkv, x)

    def project_attended(self, x: Tensor) -> Tensor:
        """Return the attention's update (B, T, E) from concatenated heads."""
        return _linear(self.attention_output, x)

    def mlp(self, x: Tensor) -> Tensor:
        """Return the MLP's update (B, T, E) for normalized tokens (B, T, E)."""
        return _linear(self.down, F.silu(_linear(self.gate, x)) * _linear(self.up, x))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer on the device of ``x``."""
    if layer.weight.device == x.device:
        return layer(x)
    bias = None if layer.bias is None else layer.bias.to(x.device, non_blocking=True)
    return F.linear(x, layer.weight.to(x.device, non_blocking=True), bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a weight, with the mean in float32 or better."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normalized = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normalized.to(x.dtype)
