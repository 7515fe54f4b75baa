"""Steps of the fused encoders on a CPU besides linear layers: norms, quantization and attention.

`TorchKernels` computes them with torch. `CompiledKernels` computes them with cpu_kernels.cpp, which reads and
writes each activation once, and where torch has no such kernel. A C++ compiler builds it in about 2 s; the
library is kept on disk.

Shapes: R rows (all leading dimensions together), D width, B images, N tokens, H heads.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

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
        shift: (D,) float32, such as the bias of a linear layer; None for 0.
    """

    values: Tensor
    steps: Tensor | None = None
    shift: Tensor | None = None


class TorchKernels:
    """The steps computed by torch."""

    compiled = False

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool, int8: bool
    ) -> Scaled:
        """Add a branch to the residual stream in place and return the LayerNorm of the sum.

        Args:
            stream: (..., D) float32, contiguous.
            branch: bfloat16 values (..., D), contiguous; None adds nothing.
            norm: the LayerNorm, with float32 parameters.
            keep_sum: whether the stream becomes the sum (pre-norm) or the normalized sum (post-norm).
            int8: return int8 levels instead of bfloat16.
        """
        if branch is not None:
            stream += _restored(branch)
        normalized = norm(stream)
        if not keep_sum:
            stream.copy_(normalized)
        return _quantized(normalized) if int8 else Scaled(normalized.bfloat16())

    def quantize(self, x: Scaled, gelu: bool = False) -> Scaled:
        """Return levels, with a step per row, of bfloat16 values (..., D).

        Args:
            x: the values; with steps and shift only before a GELU.
            gelu: quantize gelu(x) + GELU_OFFSET to uint8. It is not negative, so that all levels are used.
                Otherwise x is quantized to int8.
        """
        numbers = _restored(x)
        return _quantized(F.gelu(numbers) + GELU_OFFSET, torch.uint8) if gelu else _quantized(numbers)

    def rescale(self, x: Scaled) -> Tensor:
        """Return bfloat16 numbers (..., D) of a product; its values may be overwritten."""
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
        out = torch.empty(stream.shape, dtype=torch.int8 if int8 else torch.bfloat16)
        steps = torch.empty(stream.numel() // width) if int8 else None
        self.library.add_norm(
            _pointer(stream),
            *_pointers(branch),
            _pointer(norm.weight),
            _pointer(norm.bias),
            ctypes.c_float(norm.eps),
            ctypes.c_int(keep_sum),
            _pointer(None if int8 else out),
            _pointer(out if int8 else None),
            _pointer(steps),
            *_sizes(stream),
        )
        return Scaled(out, steps)

    def quantize(self, x: Scaled, gelu: bool = False) -> Scaled:
        width = x.values.shape[-1]
        if width % WIDE or gelu != (x.steps is not None):
            return super().quantize(x, gelu)
        levels = torch.empty(x.values.shape, dtype=torch.uint8 if gelu else torch.int8)
        steps, offset = torch.empty(levels.numel() // width), ctypes.c_float(GELU_OFFSET)
        self.library.quantize(*_pointers(x), offset, _pointer(levels), _pointer(steps), *_sizes(levels))
        return Scaled(levels, steps)

    def rescale(self, x: Scaled) -> Tensor:
        if x.values.shape[-1] % WIDE:
            return super().rescale(x)
        self.library.rescale(*_pointers(x), *_sizes(x.values))
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


def _restored(x: Scaled) -> Tensor:
    """Return the numbers (..., D) in float32."""
    numbers = x.values.float()
    if x.steps is not None:
        numbers *= x.steps.view(*numbers.shape[:-1], 1)
    return numbers if x.shift is None else numbers.add_(x.shift)


def _plain(x: Scaled, kernels: TorchKernels) -> Tensor:
    return x.values if x.steps is None else kernels.rescale(x)


def _quantized(x: Tensor, dtype: torch.dtype = torch.int8) -> Scaled:
    """Return levels round(x / step) of float32 rows (..., D); the largest is 127 in int8, 255 in uint8."""
    steps = x.abs().amax(-1, keepdim=True) / torch.iinfo(dtype).max
    levels = (x / steps.clamp_min(torch.finfo().tiny)).round_().nan_to_num_(0)
    return Scaled(levels.to(dtype), steps.flatten())


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _pointers(x: Scaled | None) -> tuple[ctypes.c_void_p, ...]:
    parts = (None, None, None) if x is None else (x.values, x.steps, x.shift)
    return tuple(map(_pointer, parts))


def _sizes(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64, int]:
    """Return the numbers of rows, columns and threads."""
    width = x.shape[-1]
    return ctypes.c_int64(x.numel() // width), ctypes.c_int64(width), torch.get_num_threads()
