"""Steps of the fused encoders on a CPU, computed by the C++ of the folder cpp.

It reads and writes each activation once. It computes attention with AMX, AVX512-BF16 or, without bfloat16
units, in float32; with AMX it multiplies levels too. Products are in blocks that fit in the caches of a core.
A C++ compiler builds it in about 3 s; the library is kept on disk.

Shapes: B images, N tokens, R rows of all images (B N), D width, H heads.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .cpu_kernels import GELU_OFFSET, Int8Matrix, Scaled, TorchKernels
from .cpu_library import build_library, is_built, library_path
from .weight_layouts import in_nibbles, in_panels, padded

WIDTH_STEP = 16  # the kernels need widths that are multiples of it
HEAD_WIDTH = 64  # of the attention
TILE_WIDTH = 64  # levels in the row of a tile


class CompiledKernels(TorchKernels):
    """The steps computed by C++, and by torch for widths that it does not support.

    Attributes:
        has_tiles: whether the processor multiplies tiles (AMX), in attention and in products of levels.
        has_attention: whether attention can be computed: the library needs no AMX, or the system grants it.
    """

    compiled = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.has_tiles = bool(library.amx_is_granted())
        self.has_attention = self.has_tiles or bool(library.has_vector_attention())

    def pack(self, levels: Tensor, scale: Tensor) -> Int8Matrix:
        if not self._has_tiles_of(levels.shape[1]):
            return super().pack(levels, scale)
        panels = in_panels(levels.to(torch.int8))
        return Int8Matrix(panels, padded(scale), torch.zeros_like(scale, dtype=torch.int32))

    def multiply(self, matrix: Int8Matrix, rows: Scaled) -> Tensor:
        if not rows.tiled:
            return super().multiply(matrix, rows)
        *leading, inner = rows.values.shape
        width = len(matrix.zeros)
        out = torch.empty(*leading, width, dtype=torch.bfloat16)
        self.library.multiply_int8(
            _pointer(rows.values),
            ctypes.c_int(rows.values.dtype == torch.uint8),
            _pointer(matrix.levels),
            _pointer(matrix.scale),
            _pointer(out),
            *map(ctypes.c_int64, (rows.values.numel() // inner, inner, width)),
            torch.get_num_threads(),
        )
        return out

    def pack_errors(self, errors: Tensor, scale: Tensor) -> Int8Matrix:
        if not self._has_tiles_of(errors.shape[1]):
            return super().pack_errors(errors, scale)
        return Int8Matrix(in_nibbles(errors), scale / 16, torch.zeros_like(scale, dtype=torch.int32))

    def multiply_errors(self, matrix: Int8Matrix, rows: Scaled, bias: Tensor) -> Tensor:
        count, inner = rows.values.shape
        if not self._has_tiles_of(inner):
            return super().multiply_errors(matrix, rows, bias)
        out = torch.empty(count, len(bias))
        self.library.multiply_errors(
            *map(_pointer, (matrix.levels, matrix.scale, bias, rows.values, rows.steps, out)),
            *map(ctypes.c_int64, (count, inner, len(bias))),
            torch.get_num_threads(),
        )
        return out

    def _has_tiles_of(self, width: int) -> bool:
        """Return whether levels (B, N, D) of this width are in tile order."""
        return self.has_tiles and width % TILE_WIDTH == 0

    def add_norm(
        self, stream: Tensor, branch: Scaled | None, norm: nn.LayerNorm, keep_sum: bool, int8: bool
    ) -> Scaled:
        width = stream.shape[-1]
        if width % WIDTH_STEP:
            return super().add_norm(stream, branch, norm, keep_sum, int8)
        out = self._empty_levels(stream) if int8 else Scaled(torch.empty(stream.shape, dtype=torch.bfloat16))
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
        if width % WIDTH_STEP or gelu != (x.steps is not None):
            return super().quantize(x, gelu)
        out = self._empty_levels(x.values, torch.uint8 if gelu else torch.int8)
        sizes = _Rows.of(x.values), torch.get_num_threads()
        self.library.quantize(*_pointers(x), ctypes.c_float(GELU_OFFSET), _Quantized.of(out), *sizes)
        return out

    def rescale(self, x: Scaled) -> Tensor:
        if x.values.shape[-1] % WIDTH_STEP:
            return super().rescale(x)
        self.library.rescale(*_pointers(x), _Rows.of(x.values), torch.get_num_threads())
        return x.values

    def self_attention(self, qkv: Scaled, attend: MultiHeadAttention) -> Tensor:
        if not self._has_heads_of(attend, qkv.values.shape[-1] // 3):
            return super().self_attention(qkv, attend)
        return self._attend(attend.heads, *qkv.thirds(), None)

    def attention(
        self, attend: MultiHeadAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        plain = all(x.dtype == torch.bfloat16 for x in (query, key, value))
        if not plain or not self._has_heads_of(attend, query.shape[-1]):
            return super().attention(attend, query, key, value, mask)
        key, value = key.expand(len(query), -1, -1), value.expand(len(query), -1, -1)
        attended = None if mask is None else mask.expand(len(query), 1, 1, key.shape[1]).contiguous()
        return self._attend(attend.heads, Scaled(query), Scaled(key), Scaled(value), attended)

    def _has_heads_of(self, attend: MultiHeadAttention, width: int) -> bool:
        """Return whether attention of this width (of all heads) is compiled."""
        return self.has_attention and width == attend.heads * HEAD_WIDTH

    def _attend(
        self, heads: int, query: Scaled, key: Scaled, value: Scaled, attended: Tensor | None
    ) -> Tensor:
        out = torch.empty(query.values.shape, dtype=torch.bfloat16)
        sizes = ctypes.c_int64(len(out)), ctypes.c_int64(heads), torch.get_num_threads()
        self.library.attention(
            *map(_Heads.of, (query, key, value)), _pointer(attended), _pointer(out), *sizes
        )
        return out

    def _empty_levels(self, x: Tensor, dtype: torch.dtype = torch.int8) -> Scaled:
        """Return uninitialized levels of the shape of x (B, N, D), with steps and means."""
        *_, tokens, width = x.shape
        rows = x.numel() // width
        images = rows // tokens
        memory = torch.empty((rows + 31) // 32 * 32 * width, dtype=dtype)
        means = Scaled(torch.empty(images, width, dtype=torch.int8), torch.empty(images))
        values = memory[: x.numel()].view(x.shape)
        return Scaled(values, torch.empty(rows), means=means, tiled=self._has_tiles_of(width))


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
    """Rows of cpp/rows.cpp."""

    _fields_ = (("rows", ctypes.c_int64), ("width", ctypes.c_int64), ("tokens", ctypes.c_int64))

    @classmethod
    def of(cls, x: Tensor) -> _Rows:
        """Return the sizes of a tensor (B, N, D)."""
        *_, tokens, width = x.shape
        return cls(x.numel() // width, width, tokens)


class _Quantized(ctypes.Structure):
    """Quantized of cpp/rows.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("levels", "steps", "mean_levels", "mean_steps")),
        ("tiled", ctypes.c_int64),
    )

    @classmethod
    def of(cls, x: Scaled | None) -> _Quantized:
        """Return pointers to levels, steps and means; null for None."""
        if x is None or x.means is None:
            return cls()
        return cls(*map(_pointer, (x.values, x.steps, x.means.values, x.means.steps)), x.tiled)


class _Heads(ctypes.Structure):
    """Heads of cpp/heads.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("numbers", "steps", "shift")),
        *((name, ctypes.c_int64) for name in ("rows", "stride", "image_stride", "shift_stride")),
    )

    @classmethod
    def of(cls, x: Scaled) -> _Heads:
        """Return pointers and strides of numbers (B, N, D), whose last stride is 1."""
        image_stride, stride, _ = x.values.stride()
        return cls(
            *map(_pointer, (x.values, x.steps, x.shift)),
            x.values.shape[1],
            stride,
            image_stride,
            _shift_stride(x),
        )


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _pointers(x: Scaled | None) -> tuple[Any, ...]:
    """Return pointers to values, steps and shift, and the stride from an image to the next in the shift."""
    if x is None:
        return None, None, None, ctypes.c_int64(0)
    return *map(_pointer, (x.values, x.steps, x.shift)), ctypes.c_int64(_shift_stride(x))


def _shift_stride(x: Scaled) -> int:
    """Return the numbers from the shift of an image to that of the next; 0 if all have the same."""
    return 0 if x.shift is None or x.shift.ndim == 1 else x.shift.stride(0)
