"""Steps of the fused encoders on a CPU with linear layers in int8.

A weight has a scale for each output channel, an input a step for each row. The input of the second layer of
an MLP is unsigned: gelu(x) + GELU_OFFSET, which the bias of that layer corrects. AMX or oneDNN multiplies the
levels. What comes after the product scales it: adding to the residual stream, attention or GELU.

The rounding errors of the weights are the same for all tokens. Tokens of an image have much in common, so
these errors do not average out. Therefore they are corrected for the mean of an image's tokens: with levels Q
of a weight W, W x = Q x + (W - Q) mean(x) + (W - Q) (x - mean(x)), of which only the last part is left out.
The second part is one row per image. The errors of rounded inputs differ by token and average out.

Shapes: B images, N tokens, R rows of all images (B N), E input width and O output width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .cpu_kernels import GELU_OFFSET, Int8Matrix, Scaled, TorchKernels
from .cpu_ops import KernelOps
from .fused_ops import joined


@dataclass(frozen=True)
class Int8Weight:
    """A quantized linear layer.

    Attributes:
        levels: the weight.
        errors: the weight minus its levels.
        bias: (O,) float32.
        bias_after_gelu: (O,) float32, the bias for inputs that are GELU_OFFSET too large.
    """

    levels: Int8Matrix
    errors: Int8Matrix
    bias: Tensor
    bias_after_gelu: Tensor


class Int8Ops(KernelOps):
    """Steps on a CPU; Rows are int8 levels with a step per row, Products are not yet scaled."""

    def prepare(self, *layers: nn.Linear) -> Int8Weight:
        return quantized_weight(*joined(layers), self.kernels)

    def prepare_mlp(self, first: nn.Linear, second: nn.Linear) -> tuple[Any, Int8Weight]:
        return self.prepare(first), self.prepare(second)

    def rows(self, x: Tensor) -> Scaled:
        return self.kernels.quantize(Scaled(x.bfloat16().contiguous()))

    def linear(self, layer: Int8Weight, rows: Scaled) -> Scaled:
        return int8_linear(layer, rows, self.kernels)

    def numbers(self, product: Scaled) -> Tensor:
        return self.kernels.rescale(product)

    def mlp(self, first: Any, second: Int8Weight, rows: Scaled) -> Scaled:
        hidden = self.kernels.quantize(int8_linear(first, rows, self.kernels), gelu=True)
        return int8_linear(second, hidden, self.kernels, after_gelu=True)

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool = True
    ) -> Scaled:
        return self.kernels.add_norm(stream, branch, norm, keep_sum, int8=True)

    def normalized(self, stream: Tensor, branch: Scaled, norm: nn.LayerNorm) -> Tensor:
        return self.kernels.add_norm(stream, branch, norm, keep_sum=True, int8=False).values


def quantized_weight(weight: Tensor, bias: Tensor, kernels: TorchKernels) -> Int8Weight:
    """Quantize a weight (O, E), each output channel by its largest number."""
    weight, bias = weight.float(), bias.float()
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo().tiny)
    levels = (weight / scale[:, None]).round_()
    return Int8Weight(
        kernels.pack(levels, scale),
        kernels.pack_errors(weight / scale[:, None] - levels, scale),
        bias,
        bias - GELU_OFFSET * weight.sum(1),
    )


def int8_linear(layer: Int8Weight, rows: Scaled, kernels: TorchKernels, after_gelu: bool = False) -> Scaled:
    """Return the product (B, N, O) of rows (B, N, E); steps and shift are not yet applied to it.

    Args:
        layer: the layer.
        rows: levels with means.
        kernels: those that packed the layer and quantized the rows.
        after_gelu: whether the rows are GELU_OFFSET too large.
    """
    assert rows.means is not None
    bias = layer.bias_after_gelu if after_gelu else layer.bias
    shift = kernels.multiply_errors(layer.errors, rows.means, bias)
    return Scaled(kernels.multiply(layer.levels, rows), rows.steps, shift)


@lru_cache(maxsize=1)
def int8_works() -> bool:
    """Return whether torch has the oneDNN operation for int8 and it agrees with ``F.linear``."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((3, 5, 64), (32, 64), (32,)))
    try:
        with torch.no_grad():
            kernels = TorchKernels()
            rows = kernels.quantize(Scaled(x))
            y = kernels.rescale(int8_linear(quantized_weight(weight, bias, kernels), rows, kernels))
            return torch.allclose(y.float(), nn.functional.linear(x, weight, bias), rtol=0.05, atol=0.5)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False
