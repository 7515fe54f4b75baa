"""BLIP's encoders for scoring in 16 or 8 bits, with fewer and larger steps.

The results are those of vision_encoder.py and text_encoder.py up to rounding. What the steps are depends on
the processor (see fused_ops.py). Patches are multiplied as a matrix instead of a convolution, and read 8-bit
levels.

They compute no gradients. Shapes: B texts, M images (B, or a divisor of B), S image side, P patch side, N
image tokens, E image width, D text width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused_ops import FusedOps
from .text_encoder import KeysValues, TextEncoder, TextLayer
from .vision_encoder import VisionBlock, VisionEncoder


class FusedVisionEncoder:
    """BLIP's ViT, from 8-bit levels to image tokens.

    Args:
        encoder: the encoder.
        mean, std: (3, 1, 1) float32 of the image transform.
        ops: the steps.
        dtype: the dtype in which patches are multiplied.
    """

    def __init__(
        self, encoder: VisionEncoder, mean: Tensor, std: Tensor, ops: FusedOps, dtype: torch.dtype
    ) -> None:
        self.encoder, self.ops, self.patch = encoder, ops, encoder.config.patch_size
        self.scale, self.shift = (255 * std.flatten()).reciprocal(), -(mean / std).flatten()
        # From (E, 3, P, P) to the order in which levels are in memory: (E, P P 3).
        weight = encoder.patch_embed.proj.weight.detach()
        self.patch_weight = weight.permute(0, 2, 3, 1).flatten(1).to(dtype).contiguous()
        bias = encoder.patch_embed.proj.bias
        self.patch_bias = None if bias is None else bias.detach().to(dtype)
        blocks = (block for block in encoder.blocks if isinstance(block, VisionBlock))
        self.blocks = [FusedVisionBlock(block, ops) for block in blocks]

    def __call__(self, levels: Tensor) -> Tensor:
        """Return image tokens (M, N, E) in 16 bits of RGB images (M, S, S, 3) uint8."""
        stream = self._embed(levels)  # (M, N, E) float32
        branch = None
        for block in self.blocks:
            branch = block(stream, branch)
        return self.ops.normalized(stream, branch, self.encoder.norm)

    def _embed(self, levels: Tensor) -> Tensor:
        """Return class and patch tokens (M, N, E) float32 with positions."""
        encoder, dtype = self.encoder, self.patch_weight.dtype
        count, side = len(levels), levels.shape[1] // self.patch
        pixels = (levels * self.scale).add_(self.shift).to(dtype)
        patches = pixels.view(count, side, self.patch, side, self.patch, 3)
        patches = patches.transpose(2, 3).reshape(count, side * side, -1)  # (M, N - 1, P P 3)
        stream = encoder.pos_embed.float().repeat(count, 1, 1)  # (M, N, E)
        stream[:, :1] += encoder.cls_token
        stream[:, 1:] += F.linear(patches, self.patch_weight, self.patch_bias)
        return stream


class FusedVisionBlock:
    """A block of the ViT."""

    def __init__(self, block: VisionBlock, ops: FusedOps) -> None:
        self.block, self.ops = block, ops
        self.qkv, self.proj = ops.prepare(block.attn.qkv), ops.prepare(block.attn.proj)
        self.fc1, self.fc2 = ops.prepare_mlp(block.mlp.fc1, block.mlp.fc2)

    def __call__(self, stream: Tensor, branch: Any) -> Any:
        """Add the last branch and attention to the stream (M, N, E) float32; return the branch of the MLP."""
        ops, block = self.ops, self.block
        qkv = ops.linear(self.qkv, ops.add_norm(stream, branch, block.norm1))
        context = ops.self_attention(qkv, block.attn.attend)  # (M, N, E)
        branch = ops.linear(self.proj, ops.rows(context))
        return ops.mlp(self.fc1, self.fc2, ops.add_norm(stream, branch, block.norm2))


class FusedKeysValues:
    """The layers of BLIP's text encoder that compute keys and values of images.

    Args:
        encoder: the text encoder.
        ops: the steps.
    """

    def __init__(self, encoder: TextEncoder, ops: FusedOps) -> None:
        self.ops = ops
        cross = [layer.crossattention for layer in encoder.encoder.layer]
        self.layers = [ops.prepare(each.self["key"], each.self["value"]) for each in cross]

    def __call__(self, image_tokens: Tensor) -> list[KeysValues]:
        """Return 16-bit keys and values (M, N, D) of each layer for image tokens (M, N, E)."""
        ops, rows = self.ops, self.ops.rows(image_tokens)
        products = (ops.numbers(ops.linear(layer, rows)) for layer in self.layers)
        return [(kv.chunk(2, dim=-1)[0], kv.chunk(2, dim=-1)[1]) for kv in products]


class FusedTextEncoder:
    """BLIP's text encoder with cross-attention, from tokens to the feature of the first one.

    Args:
        encoder: the encoder.
        ops: the steps.
    """

    def __init__(self, encoder: TextEncoder, ops: FusedOps) -> None:
        self.embeddings, self.ops = encoder.embeddings, ops
        self.layers = [FusedTextLayer(layer, ops) for layer in encoder.encoder.layer]

    def __call__(
        self, cross_attention_kv: Sequence[KeysValues], token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the feature (B, D) float32 of texts (B, L) that attend to images.

        Args:
            cross_attention_kv: keys and values (M, N, D) of each layer. The first B / M texts attend to
                image 0, the next B / M to image 1.
            token_ids, mask: (B, L); the mask is 1 at tokens, 0 at padding; None for no padding.
        """
        attended = None if mask is None else mask.bool()[:, None, None, :]  # (B, 1, 1, L)
        stream = self.embeddings(token_ids)  # (B, L, D) float32
        x = self.ops.rows(stream)
        *layers, last = self.layers
        for layer, kv in zip(layers, cross_attention_kv):
            x = layer(stream, x, attended, kv)
        # Only the first token of the last layer is read.
        first = stream[:, :1].contiguous()
        last(first, x, attended, cross_attention_kv[-1])
        return first[:, 0]


class FusedTextLayer:
    """A layer of the text encoder."""

    def __init__(self, layer: TextLayer, ops: FusedOps) -> None:
        self.layer, self.ops = layer, ops
        own, cross = layer.attention, layer.crossattention
        self.qkv = ops.prepare(*(own.self[name] for name in ("query", "key", "value")))
        self.own_output = ops.prepare(own.output.dense)
        self.query = ops.prepare(cross.self["query"])
        self.cross_output = ops.prepare(cross.output.dense)
        self.fc1, self.fc2 = ops.prepare_mlp(layer.intermediate.dense, layer.output.dense)

    def __call__(self, stream: Tensor, x: Any, mask: Tensor | None, image_kv: KeysValues) -> Any:
        """Update the residual stream in place and return it as Rows.

        Args:
            stream: (B, Q, D) float32, of the first Q tokens.
            x: Rows (B, L, D), attended to.
            mask: (B, 1, 1, L).
            image_kv: keys and values (M, N, D).
        """
        ops, own, cross = self.ops, self.layer.attention, self.layer.crossattention
        q, k, v = ops.numbers(ops.linear(self.qkv, x)).chunk(3, dim=-1)  # (B, L, D) each
        context = ops.attention(own.attend, q[:, : stream.shape[1]], k, v, mask)
        x = ops.add_norm(stream, ops.linear(self.own_output, ops.rows(context)), own.output.LayerNorm, False)
        query = ops.numbers(ops.linear(self.query, x))  # (B, Q, D)
        # The texts of an image are one row of queries, so its keys and values are not copied.
        queries = query.reshape(len(image_kv[0]), -1, query.shape[-1])
        context = ops.attention(cross.attend, queries, *image_kv).view_as(query)
        x = ops.add_norm(
            stream, ops.linear(self.cross_output, ops.rows(context)), cross.output.LayerNorm, False
        )
        return ops.add_norm(stream, ops.mlp(self.fc1, self.fc2, x), self.layer.output.LayerNorm, False)
