"""Steps of the fused encoders on a CPU with bfloat16 units."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .cpu_kernels import Scaled, TorchKernels
from .fused_ops import joined

Packed = tuple[Tensor, Tensor]  # weight in oneDNN's order and bias, bfloat16


class KernelOps:
    """Steps that the kernels compute in the same way in 16 and in 8 bits.

    Attributes:
        kernels: norms, quantization and attention, computed by torch or compiled.
    """

    def __init__(self, kernels: TorchKernels) -> None:
        self.kernels = kernels

    def self_attention(self, qkv: Scaled, attend: MultiHeadAttention) -> Tensor:
        return self.kernels.self_attention(qkv, attend)

    def attention(
        self,
        attend: MultiHeadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        return self.kernels.attention(attend, query, key, value, mask)


class CpuOps(KernelOps):
    """Steps on a CPU in bfloat16; Rows and Products have no steps.

    oneDNN multiplies by weights in its own order and applies the GELU to the product in float32.
    """

    def prepare(self, *layers: nn.Linear) -> Packed:
        weight, bias = joined(layers)
        return packed_weight(weight.bfloat16()), bias.bfloat16()

    def prepare_mlp(self, first: nn.Linear, second: nn.Linear) -> tuple[Packed, Packed]:
        return self.prepare(first), self.prepare(second)

    def rows(self, x: Tensor) -> Scaled:
        return Scaled(x.bfloat16())

    def linear(self, layer: Packed, rows: Scaled) -> Scaled:
        return Scaled(packed_linear(rows.values, *layer))

    def numbers(self, product: Scaled) -> Tensor:
        return product.values

    def mlp(self, first: Packed, second: Packed, rows: Scaled) -> Scaled:
        return Scaled(packed_linear(packed_linear(rows.values, *first, gelu=True), *second))

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool = True
    ) -> Scaled:
        return self.kernels.add_norm(stream, branch, norm, keep_sum, int8=False)

    def normalized(self, stream: Tensor, branch: Scaled, norm: nn.LayerNorm) -> Tensor:
        return self.add_norm(stream, branch, norm).values


def packed_weight(weight: Tensor) -> Tensor:
    """Return a bfloat16 weight (O, E) in the order in which oneDNN reads it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Return ``F.linear`` of bfloat16 x (..., E) and a packed weight, with a GELU if wanted."""
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


@lru_cache(maxsize=1)
def packing_works() -> bool:
    """Return whether torch has the oneDNN operations and they agree with ``F.linear``."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((3, 5, 64), (32, 64), (32,))
    )
    try:
        with torch.no_grad():
            expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
            y = packed_linear(x, packed_weight(weight), bias, gelu=True).float()
            return torch.allclose(y, expected, rtol=0.02, atol=0.02)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False
