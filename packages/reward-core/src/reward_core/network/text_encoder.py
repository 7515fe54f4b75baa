"""BLIP's text encoder: a post-norm BERT in which every layer may also look at an image.

Module names are the checkpoint's key names, so weights load strictly and without a map.
Letters in shape comments: B batch, L text tokens, Q queries, N image tokens, D text width, E image width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend, project, run_block

KeysValues: TypeAlias = tuple[Tensor, Tensor]  # what is attended to: two of (B, K, D)


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder under BERT's own names; the defaults are ImageReward-v1.0's.

    ``encoder_width`` is the width of the image tokens that cross-attention reads.
    ``pad_token_id`` is kept for the checkpoint's configuration file.
    """

    vocab_size: int = 30524
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    encoder_width: int = 1024
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pad_token_id: int = 0


class TextEncoder(nn.Module):
    """Token ids (B, L), optionally beside images -> text features (B, L, D).

    Images enter as ``cross_attention_kv``, the keys and values that ``project_kv`` makes of their tokens,
    once for any
    number of prompts. Without it the cross-attention sublayers are left out (BLIP's text-only mode).
    Attention is bidirectional; ``mask`` is 1 (or True) at real tokens, 0 at padding; None means that no
    token is padding.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # as in the vision encoder
        self.embeddings = TextEmbeddings(config)
        self.encoder: Any = nn.Module()
        self.encoder.layer = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))

    def project_kv(self, image_tokens: Tensor) -> list[KeysValues]:
        """Image tokens (B, N, E) -> each layer's keys and values of the image, (B, N, D)."""
        return [layer.crossattention.keys_values(image_tokens) for layer in self.encoder.layer]

    def fused_cross_attention_kv(self) -> tuple[Tensor, Tensor]:
        """Weight (2 D layers, E) and bias of the one product that gives all that ``project_kv`` does.

        Its result, (B, N, 2 D layers), may be handed to ``forward`` as it is.
        """
        parts = [layer.crossattention.self[name] for layer in self.encoder.layer for name in ("key", "value")]
        return torch.cat([p.weight for p in parts]).detach(), torch.cat([p.bias for p in parts]).detach()

    def forward(
        self,
        token_ids: Tensor,
        mask: Tensor | None = None,
        cross_attention_kv: Sequence[KeysValues] | Tensor | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """``queries``: features are wanted of the first so many tokens only, (B, Q, D).

        ``cross_attention_kv`` may be of fewer images than texts: then as many texts in a row read the same
        image.
        """
        if isinstance(cross_attention_kv, Tensor):
            parts = cross_attention_kv.split(self.config.hidden_size, dim=-1)
            cross_attention_kv = list(zip(parts[::2], parts[1::2]))
        # Padding is masked for every query alike: (B, 1, 1, L) broadcasts over heads and queries.
        keys = None if mask is None else mask.bool()[:, None, None, :]
        x = self.embeddings(token_ids)  # (B, L, D)
        last = len(self.encoder.layer) - 1
        for i, layer in enumerate(self.encoder.layer):
            # Only in the last layer do the other tokens' features serve nobody.
            image, wanted = (
                None if cross_attention_kv is None else cross_attention_kv[i],
                queries if i == last else None,
            )
            x = run_block(layer, x, keys, image, wanted, gradient_checkpointing=self.gradient_checkpointing)
        return x


class TextEmbeddings(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.word_embeddings(token_ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class TextLayer(nn.Module):
    """Self-attention, then (with an image) cross-attention, then the feed-forward part."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.attention = TextAttention(config, config.hidden_size)
        self.crossattention = TextAttention(config, config.encoder_width)
        self.intermediate: Any = nn.Module()
        self.intermediate.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = ResidualNorm(config.intermediate_size, config)

    def forward(
        self, x: Tensor, mask: Tensor | None, image: KeysValues | None, queries: int | None = None
    ) -> Tensor:
        x = self.attention(x[:, :queries], self.attention.keys_values(x), mask)
        if image is not None:
            # All texts of an image are one row of queries: nothing of it is copied for each.
            x = self.crossattention(x.reshape(len(image[0]), -1, x.shape[-1]), image, None).view_as(x)
        return self.output(F.gelu(project(self.intermediate.dense, x)), x)


class TextAttention(nn.Module):
    """Queries from the text (B, Q, D), keys and values from a source (B, K, source_width) -> (B, Q, D)."""

    def __init__(self, config: TextConfig, source_width: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        width = config.hidden_size
        self.self: Any = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(source_width, width),
                "value": nn.Linear(source_width, width),
            }
        )
        self.output = ResidualNorm(width, config)

    def keys_values(self, source: Tensor) -> KeysValues:
        return project(self.self["key"], source), project(self.self["value"], source)

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(project(self.self["query"], x), *keys_values, self.heads, mask, dropout), x)


class ResidualNorm(nn.Module):
    """BERT's end of every sublayer: LayerNorm(residual + dense(x))."""

    def __init__(self, in_width: int, config: TextConfig):
        super().__init__()
        self.dense = nn.Linear(in_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(project(self.dense, x)))
