"""Steps of the fused encoders on a CPU besides bfloat16 products, computed by torch and oneDNN.

`CompiledKernels` (compiled_kernels.py) computes the same steps with C++.

Shapes: B images, N tokens, R rows of all images (B N), E input width and O output width of a linear layer, D
width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention

GELU_OFFSET = 0.1701  # GELU is larger than minus this


@dataclass(frozen=True)
class Scaled:
    """Numbers ``values * steps + shift``.

    Attributes:
        values: (..., D), 8-bit levels or the bfloat16 result of a product of levels.
        steps: (R,) float32, one per row; None for 1.
        shift: (D,) float32, such as the bias of a linear layer, or (B, D), one per image; None for 0.
        means: of levels (B, N, D): the quantized means over the tokens of an image, (B, D).
        tiled: whether the values are in tile order (cpp/vectors.h), in memory for a multiple of 32 rows.
    """

    values: Tensor
    steps: Tensor | None = None
    shift: Tensor | None = None
    means: Scaled | None = None
    tiled: bool = False

    def thirds(self) -> tuple[Scaled, Scaled, Scaled]:
        """Return the three equal parts of the width of a product, as views."""
        shifts = (None,) * 3 if self.shift is None else self.shift.chunk(3, dim=-1)
        first, second, third = (
            Scaled(values, self.steps, shift) for values, shift in zip(self.values.chunk(3, dim=-1), shifts)
        )
        return first, second, third


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix (O, E) that is levels * scale.

    Attributes:
        levels: int8, or 4 bits of errors (compiled_kernels.py), in an order that the kernels choose.
        scale: (O,) float32, or with zeros up to a whole panel (compiled_kernels.py).
        zeros: (O,) int32, the zero points.
        shift: (O,) float32, the product of the matrix and -128; None if compiled kernels multiply.
    """

    levels: Tensor
    scale: Tensor
    zeros: Tensor
    shift: Tensor | None = None


class TorchKernels:
    """The steps computed by torch."""

    compiled = False

    def pack(self, levels: Tensor, scale: Tensor) -> Int8Matrix:
        """Return levels (O, E), whole numbers within int8, as a matrix for ``multiply``."""
        return pack_int8(levels, scale)

    def multiply(self, matrix: Int8Matrix, rows: Scaled) -> Tensor:
        """Return the product (B, N, O) in bfloat16 of a matrix and levels (B, N, E), without their steps."""
        return multiply_int8(matrix, rows.values)

    def pack_errors(self, errors: Tensor, scale: Tensor) -> Int8Matrix:
        """Return errors * scale (O, E) as a matrix for ``multiply_errors``; errors are within [-0.5, 0.5]."""
        return pack_int8((errors * 254).round_().clamp_(-127, 127), scale / 254)

    def multiply_errors(self, matrix: Int8Matrix, rows: Scaled, bias: Tensor) -> Tensor:
        """Return the product (R, O) in float32 of a matrix and a few rows (R, E), plus a bias (O,)."""
        assert rows.steps is not None
        return multiply_int8(matrix, rows.values).float().mul_(rows.steps[:, None]).add_(bias)

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool, int8: bool
    ) -> Scaled:
        """Add a branch to the residual stream in place and return the LayerNorm of the sum.

        Args:
            stream: (B, N, D) float32, contiguous.
            branch: bfloat16 values (B, N, D), contiguous; None adds nothing.
            norm: the LayerNorm, with float32 parameters.
            keep_sum: whether the stream becomes the sum (pre-norm) or the normalized sum (post-norm).
            int8: return int8 levels, with means, instead of bfloat16.
        """
        if branch is not None:
            stream += _restored(branch)
        normalized = norm(stream)
        if not keep_sum:
            stream.copy_(normalized)
        return _quantized(normalized) if int8 else Scaled(normalized.bfloat16())

    def quantize(self, x: Scaled, gelu: bool = False) -> Scaled:
        """Return levels, with a step per row and means, of bfloat16 values (B, N, D).

        Args:
            x: the values; with steps and shift only before a GELU.
            gelu: quantize gelu(x) + GELU_OFFSET to uint8. It is not negative, so that all levels are used.
                Otherwise x is quantized to int8.
        """
        numbers = _restored(x)
        return _quantized(F.gelu(numbers) + GELU_OFFSET, torch.uint8) if gelu else _quantized(numbers)

    def rescale(self, x: Scaled) -> Tensor:
        """Return bfloat16 numbers (B, N, D) of a product; its values may be overwritten."""
        return _restored(x).bfloat16()

    def self_attention(self, qkv: Scaled, attend: MultiHeadAttention) -> Tensor:
        """Return the attended values (B, N, D) of queries, keys and values (B, N, 3 D)."""
        return attend(*_plain(qkv, self).chunk(3, dim=-1))

    def attention(
        self, attend: MultiHeadAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the attended values (B, Q, D) of 16-bit queries (B, Q, D), keys and values (B, K, D).

        The mask (B, 1, 1, K) is True at keys to attend to, at least one for each query.
        """
        return attend(query, key, value, mask)


def _restored(x: Scaled) -> Tensor:
    """Return the numbers (B, N, D) in float32."""
    numbers = x.values.float()
    if x.steps is not None:
        numbers *= x.steps.view(*numbers.shape[:-1], 1)
    if x.shift is None:
        return numbers
    return numbers.add_(x.shift if x.shift.ndim == 1 else x.shift[:, None])


def _plain(x: Scaled, kernels: TorchKernels) -> Tensor:
    return x.values if x.steps is None else kernels.rescale(x)


def _quantized(x: Tensor, dtype: torch.dtype = torch.int8) -> Scaled:
    """Return levels and means of float32 numbers (B, N, D)."""
    levels, steps = quantized_rows(x, dtype)
    return Scaled(levels, steps, means=Scaled(*quantized_rows(x.mean(-2))))


def quantized_rows(x: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """Return levels round(x / step) of rows (..., D), at most 127 in int8 or 255 in uint8, and steps (R,)."""
    steps = x.abs().amax(-1, keepdim=True) / torch.iinfo(dtype).max
    levels = (x / steps.clamp_min(torch.finfo().tiny)).round_().nan_to_num_(0)
    return levels.to(dtype), steps.flatten()


def pack_int8(levels: Tensor, scale: Tensor) -> Int8Matrix:
    """Return levels (O, E), whole numbers within int8, packed by oneDNN."""
    packed = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
    return Int8Matrix(packed, scale, torch.zeros_like(scale, dtype=torch.int32), -128 * scale * levels.sum(1))


def multiply_int8(matrix: Int8Matrix, levels: Tensor) -> Tensor:
    """Return the product (..., O) in bfloat16 of a matrix that oneDNN packed and levels (..., E)."""
    shift = None
    if levels.dtype == torch.int8:
        # Without AMX, oneDNN takes seconds for signed levels, so they become unsigned: levels + 128. A zero
        # point of 128 would give the same result, but without AVX-512 it takes 27% longer.
        levels, shift = levels.view(torch.uint8).bitwise_xor(128), matrix.shift
    # The same holds for results in bfloat16 without AVX-512.
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    dtype = torch.bfloat16 if has_avx512 else torch.float32
    scales = (matrix.levels, matrix.scale, matrix.zeros)
    product = torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, 0, *scales, shift, 1.0, 0, dtype, "none", [], ""
    )
    return product.bfloat16()
