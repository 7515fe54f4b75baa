"""BLIP's text encoder: a post-norm BERT with cross-attention to an image.

Module names are the keys of the published checkpoint, so weights load without a key map.

Shapes: B texts, L text tokens, Q tokens whose features are computed, D text width, N image tokens, E image
width, M images (B, or a divisor of B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .encoder_sizes import TextConfig
from .layers import project, run_block

KeysValues: TypeAlias = tuple[Tensor, Tensor]  # keys and values, (B, K, D) each


class TextEncoder(nn.Module):
    """BERT with cross-attention: from token ids (B, L) to text features (B, L, D).

    The keys and values of images come from ``project_kv``, once for any number of texts.

    Attributes:
        gradient_checkpointing: run the layers again in the backward pass instead of saving activations.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embeddings = TextEmbeddings(config)
        self.encoder: Any = nn.Module()
        self.encoder.layer = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))

    def project_kv(self, image_tokens: Tensor) -> list[KeysValues]:
        """Return keys and values (M, N, D) of image tokens (M, N, E) per layer."""
        return [layer.crossattention.project_kv(image_tokens) for layer in self.encoder.layer]

    def forward(
        self,
        token_ids: Tensor,
        mask: Tensor | None = None,
        cross_attention_kv: Sequence[KeysValues] | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """Return text features (B, Q, D); Q is L unless ``queries`` is given.

        Args:
            token_ids: (B, L).
            mask: (B, L), 1 or True at tokens, 0 at padding; None for no padding.
            cross_attention_kv: keys and values (M, N, D) of each layer, from ``project_kv``. The first B / M
                texts attend to image 0, the next B / M to image 1. None skips cross-attention (BLIP's
                text-only mode).
            queries: number Q of first tokens to compute features of.
        """
        *layers, last = self.encoder.layer
        kv = [None] * (len(layers) + 1) if cross_attention_kv is None else cross_attention_kv
        mask = None if mask is None else mask.bool()[:, None, None, :]  # (B, 1, 1, L)
        x = self.embeddings(token_ids)  # (B, L, D)
        for layer, image_kv in zip(layers, kv):
            x = run_block(layer, x, mask, image_kv, gradient_checkpointing=self.gradient_checkpointing)
        # Only the last layer can skip tokens. The output of every other layer is attended to by the next.
        return run_block(last, x, mask, kv[-1], queries, gradient_checkpointing=self.gradient_checkpointing)


class Embedding(nn.Embedding):
    """nn.Embedding without random weights on the meta device, where making them imports torch's compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class TextEmbeddings(nn.Module):
    """Sum of word and position embeddings with LayerNorm."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.word_embeddings(token_ids) + self.position_embeddings(positions)  # (B, L, D)
        return self.dropout(self.LayerNorm(x))


class TextLayer(nn.Module):
    """Self-attention, optional cross-attention to an image, and MLP."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.attention = TextAttention(config, config.hidden_size)
        self.crossattention = TextAttention(config, config.encoder_width)
        self.intermediate: Any = nn.Module()
        self.intermediate.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = ResidualNorm(config.intermediate_size, config)

    def forward(
        self, x: Tensor, mask: Tensor | None, image_kv: KeysValues | None, queries: int | None = None
    ) -> Tensor:
        x = self.attention(x[:, :queries], self.attention.project_kv(x), mask)  # (B, Q, D)
        if image_kv is not None:
            # The texts of an image are one row of queries, so its keys and values are not copied.
            images = len(image_kv[0])
            x = self.crossattention(x.reshape(images, -1, x.shape[-1]), image_kv, None).view_as(x)
        return self.output(F.gelu(project(self.intermediate.dense, x)), x)


class TextAttention(nn.Module):
    """Attention to text features or image tokens, with BERT's residual and LayerNorm."""

    def __init__(self, config: TextConfig, source_width: int):
        super().__init__()
        width = config.hidden_size
        self.self: Any = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(source_width, width),
                "value": nn.Linear(source_width, width),
            }
        )
        self.attend = MultiHeadAttention(config.num_attention_heads, config.attention_probs_dropout_prob)
        self.output = ResidualNorm(width, config)

    def project_kv(self, source: Tensor) -> KeysValues:
        """Return keys and values, (B, K, D) each, of ``source`` (B, K, source_width)."""
        return project(self.self["key"], source), project(self.self["value"], source)

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor | None) -> Tensor:
        query = project(self.self["query"], x)  # (B, Q, D)
        return self.output(self.attend(query, *kv, mask), x)


class ResidualNorm(nn.Module):
    """Output of every sublayer of BERT: LayerNorm(residual + dense(x))."""

    def __init__(self, in_width: int, config: TextConfig):
        super().__init__()
        self.dense = nn.Linear(in_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(project(self.dense, x)))
