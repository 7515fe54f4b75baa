"""BLIP's encoders for scoring in 16 bits on a CUDA GPU, with fewer and larger steps.

The results are those of vision_encoder.py and text_encoder.py with 16-bit matrices, up to rounding:

- adding a branch to the residual stream, LayerNorm and the conversion to 16 bits are one Triton kernel, which
  reads and writes the stream once;
- the first linear layer of an MLP applies the GELU itself (cuBLAS computes it by its tanh approximation,
  whose error is below the rounding of 16 bits);
- patches are multiplied as a matrix instead of a convolution, and read 8-bit levels.

They compute no gradients. Shapes: B images or texts, S image side, P patch side, N image tokens, D width, L
text tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text_encoder import KeysValues, TextEncoder, TextLayer
from .vision_encoder import VisionBlock, VisionEncoder


def can_fuse(encoder: nn.Module, device: torch.device) -> bool:
    """Return whether this module computes models with this vision encoder on a device."""
    if type(encoder) is not VisionEncoder or device.type != "cuda":
        return False
    sixteen_bits = encoder.patch_embed.proj.weight.dtype in (torch.bfloat16, torch.float16)
    return sixteen_bits and importlib.util.find_spec("triton") is not None


class FusedVisionEncoder:
    """BLIP's ViT, from 8-bit levels to image tokens.

    Args:
        encoder: the encoder, with 16-bit matrices. Its parameters are used in place, apart from the patch
            embedding.
        mean, std: (3, 1, 1) float32 of the image transform.
    """

    def __init__(self, encoder: VisionEncoder, mean: Tensor, std: Tensor) -> None:
        self.encoder, self.patch = encoder, encoder.config.patch_size
        self.mean, self.std = mean.flatten(), std.flatten()
        # From (D, 3, P, P) to the order in which levels are in memory: (D, P P 3).
        weight = encoder.patch_embed.proj.weight.detach()
        self.patch_weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        self.blocks = [block for block in encoder.blocks if isinstance(block, VisionBlock)]

    def __call__(self, levels: Tensor) -> Tensor:
        """Return image tokens (B, N, D) in 16 bits of RGB images (B, S, S, 3) uint8."""
        stream, dtype = self._embed(levels), self.patch_weight.dtype  # (B, N, D) float32
        branch: Tensor | None = None
        for block in self.blocks:
            branch = self._attention(block, add_norm(stream, branch, block.norm1, dtype))
            branch = _mlp(block.mlp.fc1, block.mlp.fc2, add_norm(stream, branch, block.norm2, dtype))
        return add_norm(stream, branch, self.encoder.norm, dtype)

    def _embed(self, levels: Tensor) -> Tensor:
        """Return class and patch tokens (B, N, D) float32 with positions."""
        encoder, proj = self.encoder, self.encoder.patch_embed.proj
        count, side = len(levels), levels.shape[1] // self.patch
        pixels = (levels.float() / 255 - self.mean) / self.std
        patches = pixels.to(proj.weight.dtype).view(count, side, self.patch, side, self.patch, 3)
        patches = patches.transpose(2, 3).reshape(count, side * side, -1)  # (B, N - 1, P P 3)
        stream = encoder.pos_embed.float().repeat(count, 1, 1)  # (B, N, D)
        stream[:, :1] += encoder.cls_token
        stream[:, 1:] += F.linear(patches, self.patch_weight, proj.bias)
        return stream

    def _attention(self, block: VisionBlock, x: Tensor) -> Tensor:
        q, k, v = block.attn.qkv(x).chunk(3, dim=-1)  # (B, N, D) each
        return block.attn.proj(block.attn.attend(q, k, v))


class FusedTextEncoder:
    """BLIP's text encoder with cross-attention, from tokens to the feature of the first one.

    Args:
        encoder: the encoder, with 16-bit matrices, which are used in place.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.dtype = encoder.encoder.layer[0].output.dense.weight.dtype

    def __call__(self, cross_attention_kv: Sequence[KeysValues], token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the feature (B, D) float32 of texts (B, L) that attend to images.

        Args:
            cross_attention_kv: keys and values (B, N, D) of each layer.
            token_ids, mask: (B, L); the mask is 1 at tokens, 0 at padding.
        """
        attended = mask.bool()[:, None, None, :]  # (B, 1, 1, L)
        stream = self.encoder.embeddings(token_ids)  # (B, L, D) float32
        x = stream.to(self.dtype)
        *layers, last = self.encoder.encoder.layer
        for layer, kv in zip(layers, cross_attention_kv):
            x = self._layer(layer, stream, x, x, attended, kv)
        # Only the first token of the last layer is read.
        stream = stream[:, :1].contiguous()
        self._layer(last, stream, x[:, :1].contiguous(), x, attended, cross_attention_kv[-1])
        return stream[:, 0]

    def _layer(
        self, layer: TextLayer, stream: Tensor, queries: Tensor, x: Tensor, mask: Tensor, image_kv: KeysValues
    ) -> Tensor:
        """Update the residual stream (B, Q, D) in place and return it in 16 bits.

        Args:
            layer: the layer.
            stream: (B, Q, D) float32.
            queries: the stream in 16 bits.
            x: (B, L, D) in 16 bits, attended to.
            mask: (B, 1, 1, L).
            image_kv: keys and values (B, N, D).
        """
        own, cross = layer.attention, layer.crossattention
        context = own.attend(own.self["query"](queries), own.self["key"](x), own.self["value"](x), mask)
        queries = self._add_norm(stream, own.output.dense(context), own.output.LayerNorm)
        context = cross.attend(cross.self["query"](queries), *image_kv)
        queries = self._add_norm(stream, cross.output.dense(context), cross.output.LayerNorm)
        branch = _mlp(layer.intermediate.dense, layer.output.dense, queries)
        return self._add_norm(stream, branch, layer.output.LayerNorm)

    def _add_norm(self, stream: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
        return add_norm(stream, branch, norm, self.dtype, keep_sum=False)


def add_norm(
    stream: Tensor, branch: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype, keep_sum: bool = True
) -> Tensor:
    """Add a branch to the residual stream in place and return the LayerNorm of the sum.

    Args:
        stream: (..., D) float32, contiguous.
        branch: (..., D), contiguous; None adds nothing.
        norm: the LayerNorm, with float32 parameters.
        dtype: dtype of the result.
        keep_sum: whether the stream becomes the sum (pre-norm) or the normalized sum (post-norm).
    """
    from .add_norm_kernel import add_norm_kernel

    width = stream.shape[-1]
    result = torch.empty(stream.shape, dtype=dtype, device=stream.device)
    block = 1 << (width - 1).bit_length()
    add_norm_kernel[(stream.numel() // width,)](
        stream,
        stream if branch is None else branch,
        norm.weight,
        norm.bias,
        result,
        width,
        norm.eps,
        HAS_BRANCH=branch is not None,
        KEEP_SUM=keep_sum,
        BLOCK=block,
        num_warps=4 if block <= 1024 else 8,
    )
    return result


def _mlp(first: nn.Linear, second: nn.Linear, x: Tensor) -> Tensor:
    """Return second(gelu(first(x))) of x (..., D)."""
    hidden = torch._addmm_activation(first.bias, x.flatten(0, -2), first.weight.T, use_gelu=True)
    return second(hidden).view_as(x)
