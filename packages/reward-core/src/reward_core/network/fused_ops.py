"""The steps that the fused encoders consist of, for each kind of processor.

Shapes: R rows, D width, B images, N tokens, E input width and O output width of a linear layer.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import MultiHeadAttention


class FusedOps(Protocol):
    """Steps of an encoder.

    Two types are known to the operations only: ``Rows``, inputs of linear layers, and ``Product``, results of
    linear layers. Both are (..., D).
    """

    def prepare(self, *layers: nn.Linear) -> Any:
        """Return one linear layer for ``linear``, with the concatenated results of layers (E -> O each)."""

    def prepare_mlp(self, first: nn.Linear, second: nn.Linear) -> tuple[Any, Any]:
        """Return both linear layers for ``mlp``."""

    def rows(self, x: Tensor) -> Any:
        """Return Rows of 16-bit numbers (..., D)."""

    def linear(self, layer: Any, rows: Any) -> Any:
        """Return the Product of a prepared layer and Rows."""

    def numbers(self, product: Any) -> Tensor:
        """Return a Product as 16-bit numbers (..., O). The product is not used afterwards."""

    def mlp(self, first: Any, second: Any, rows: Any) -> Any:
        """Return the Product second(gelu(first(rows))) of prepared layers."""

    def self_attention(self, qkv: Any, attend: MultiHeadAttention) -> Tensor:
        """Return the attended values (B, N, D) of a Product of queries, keys and values (B, N, 3 D)."""

    def attention(
        self,
        attend: MultiHeadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the attended values (B, Q, D) of 16-bit queries (B, Q, D), keys and values (B, K, D).

        The mask (B, 1, 1, K) is True at keys to attend to, at least one for each query.
        """

    def add_norm(self, stream: Tensor, branch: Any, norm: nn.LayerNorm, keep_sum: bool = True) -> Any:
        """Add a Product to the residual stream in place and return the LayerNorm of the sum as Rows.

        Args:
            stream: (..., D) float32, contiguous.
            branch: the Product (..., D); None adds nothing.
            norm: the LayerNorm, with float32 parameters.
            keep_sum: whether the stream becomes the sum (pre-norm) or the normalized sum (post-norm).
        """

    def normalized(self, stream: Tensor, branch: Any, norm: nn.LayerNorm) -> Tensor:
        """Return the LayerNorm of the sum of stream and branch in 16 bits."""


class GpuOps:
    """Steps on a CUDA GPU in 16 bits; Rows and Products are 16-bit tensors.

    - Adding a branch to the residual stream, LayerNorm and the conversion to 16 bits are one Triton kernel,
      which reads and writes the stream once.
    - The first linear layer of an MLP applies the GELU itself (cuBLAS computes it by its tanh approximation,
      whose error is below the rounding of 16 bits).

    Args:
        dtype: bfloat16 or float16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def prepare(self, *layers: nn.Linear) -> tuple[Tensor, Tensor]:
        return joined(layers)

    def prepare_mlp(
        self, first: nn.Linear, second: nn.Linear
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return self.prepare(first), self.prepare(second)

    def rows(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def linear(self, layer: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, *layer)

    def numbers(self, product: Tensor) -> Tensor:
        return product

    def mlp(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
        weight, bias = first
        hidden = torch._addmm_activation(bias, rows.flatten(0, -2), weight.T, use_gelu=True)
        return self.linear(second, hidden).view_as(rows)

    def self_attention(self, qkv: Tensor, attend: MultiHeadAttention) -> Tensor:
        return attend(*qkv.chunk(3, dim=-1))

    def attention(
        self,
        attend: MultiHeadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        return attend(query, key, value, mask)

    def add_norm(
        self, stream: Tensor, branch: Tensor | None, norm: nn.LayerNorm, keep_sum: bool = True
    ) -> Tensor:
        from .add_norm_kernel import add_norm_kernel

        width = stream.shape[-1]
        result = torch.empty(stream.shape, dtype=self.dtype, device=stream.device)
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

    def normalized(self, stream: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self.add_norm(stream, branch, norm)


def joined(layers: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor]:
    """Return the weight (O, E) and bias (O,) of layers with concatenated results.

    Those of a single layer are not copied. A missing bias is 0.
    """
    weights = [layer.weight.detach() for layer in layers]
    biases = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    if len(layers) == 1:
        return weights[0], biases[0]
    return torch.cat(weights), torch.cat(biases)
