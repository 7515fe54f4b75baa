"""Steps of the fused encoders on a CPU besides linear layers: norms, quantization and attention.

`TorchKernels` computes them with torch. `CompiledKernels` computes them with cpu_kernels.cpp, which reads and
writes each activation once, and where torch has no such kernel. A C++ compiler builds it in about 2 s; the
library is kept on disk.

Shapes: B images, N tokens, R rows of all images (B N), D width, H heads.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .cpu_library import build_library, is_built, library_path

WIDE = 16  # the compiled kernels read as many numbers at once
HEAD_WIDTH = 64  # of the compiled attention
GELU_OFFSET = 0.1701  # GELU is larger than minus this


@dataclass(frozen=True)
class Scaled:
    """Numbers ``values * steps + shift``.

    Attributes:
        values: (..., D), 8-bit levels or the bfloat16 result of a product of levels.
        steps: (R,) float32, one per row; None for 1.
        shift: (D,) float32, such as the bias of a linear layer, or (B, D), one per image; None for 0.
        means: of levels (B, N, D): the quantized means over the tokens of an image, (B, D).
    """

    values: Tensor
    steps: Tensor | None = None
    shift: Tensor | None = None
    means: Scaled | None = None


class TorchKernels:
    """The steps computed by torch."""

    compiled = False

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


class CompiledKernels(TorchKernels):
    """The steps computed by cpu_kernels.cpp, and by torch for widths that it does not support."""

    compiled = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.has_attention = bool(library.amx_is_granted())

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool, int8: bool
    ) -> Scaled:
        width = stream.shape[-1]
        if width % WIDE:
            return super().add_norm(stream, branch, norm, keep_sum, int8)
        out = _empty_levels(stream) if int8 else Scaled(torch.empty(stream.shape, dtype=torch.bfloat16))
        self.library.add_norm(
            _pointer(stream),
            *_pointers(branch),
            _pointer(norm.weight),
            _pointer(norm.bias),
            ctypes.c_float(norm.eps),
            ctypes.c_int(keep_sum),
            _pointer(None if int8 else out.values),
            _Quantized.of(out if int8 else None),
            _Rows.of(stream),
            torch.get_num_threads(),
        )
        return out

    def quantize(self, x: Scaled, gelu: bool = False) -> Scaled:
        width = x.values.shape[-1]
        if width % WIDE or gelu != (x.steps is not None):
            return super().quantize(x, gelu)
        out = _empty_levels(x.values, torch.uint8 if gelu else torch.int8)
        sizes = _Rows.of(x.values), torch.get_num_threads()
        self.library.quantize(*_pointers(x), ctypes.c_float(GELU_OFFSET), _Quantized.of(out), *sizes)
        return out

    def rescale(self, x: Scaled) -> Tensor:
        if x.values.shape[-1] % WIDE:
            return super().rescale(x)
        self.library.rescale(*_pointers(x), _Rows.of(x.values), torch.get_num_threads())
        return x.values

    def self_attention(self, qkv: Scaled, attend: MultiHeadAttention) -> Tensor:
        images, tokens, width = qkv.values.shape
        if not self.has_attention or width != 3 * attend.heads * HEAD_WIDTH:
            return super().self_attention(qkv, attend)
        out = torch.empty(images, tokens, width // 3, dtype=torch.bfloat16)
        sizes = map(ctypes.c_int64, (images, tokens, attend.heads))
        self.library.attention(*_pointers(qkv), _pointer(out), *sizes, torch.get_num_threads())
        return out


@lru_cache(maxsize=1)
def compile_kernels() -> CompiledKernels:
    """Return the compiled kernels; build them unless they are on disk.

    Raises:
        OSError: no C++ compiler, or the library cannot be built, written or loaded.
    """
    return CompiledKernels(ctypes.CDLL(str(build_library())))


def ready_kernels() -> TorchKernels:
    """Return the compiled kernels if they are on disk, otherwise those of torch."""
    path = library_path()
    return compile_kernels() if path is not None and is_built(path) else TorchKernels()


class _Rows(ctypes.Structure):
    """Rows of cpu_kernels.cpp."""

    _fields_ = (("rows", ctypes.c_int64), ("width", ctypes.c_int64), ("tokens", ctypes.c_int64))

    @classmethod
    def of(cls, x: Tensor) -> _Rows:
        """Return the sizes of a tensor (B, N, D)."""
        *_, tokens, width = x.shape
        return cls(x.numel() // width, width, tokens)


class _Quantized(ctypes.Structure):
    """Quantized of cpu_kernels.cpp."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("levels", "steps", "mean_levels", "mean_steps"))

    @classmethod
    def of(cls, x: Scaled | None) -> _Quantized:
        """Return pointers to levels, steps and means; null for None."""
        if x is None or x.means is None:
            return cls()
        return cls(*map(_pointer, (x.values, x.steps, x.means.values, x.means.steps)))


def _empty_levels(x: Tensor, dtype: torch.dtype = torch.int8) -> Scaled:
    """Return uninitialized levels of the shape of x (B, N, D), with steps and means."""
    *_, tokens, width = x.shape
    rows = x.numel() // width
    means = Scaled(torch.empty(rows // tokens, width, dtype=torch.int8), torch.empty(rows // tokens))
    return Scaled(torch.empty(x.shape, dtype=dtype), torch.empty(rows), means=means)


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
    levels, steps = _levels(x, dtype)
    return Scaled(levels, steps, means=Scaled(*_levels(x.mean(-2))))


def _levels(x: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """Return levels round(x / step) of rows (..., D), at most 127 in int8 or 255 in uint8, and steps (R,)."""
    steps = x.abs().amax(-1, keepdim=True) / torch.iinfo(dtype).max
    levels = (x / steps.clamp_min(torch.finfo().tiny)).round_().nan_to_num_(0)
    return levels.to(dtype), steps.flatten()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _pointers(x: Scaled | None) -> tuple[Any, ...]:
    """Return pointers to values, steps and shift, and the stride from an image to the next in the shift."""
    parts = (None, None, None) if x is None else (x.values, x.steps, x.shift)
    per_image = x is not None and x.shift is not None and x.shift.ndim > 1
    return *map(_pointer, parts), ctypes.c_int64(x.shift.shape[-1] if per_image else 0)
