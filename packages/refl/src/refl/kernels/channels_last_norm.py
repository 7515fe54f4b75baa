"""GroupNorm of channels-last tensors in half precision on a CUDA GPU, with SiLU.

torch's GroupNorm on CUDA copies a channels-last tensor into NCHW order and returns NCHW, which the next
convolution copies back. These kernels read and write channels-last. They are written in Triton, which comes
with torch for CUDA on Linux.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILE = 8192  # largest number of elements that a program keeps in registers
_TILE_PIXELS = 64
_MOST_CHUNKS = 64
_MOST_CHANNELS = 1024  # of a group


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, silu: bool = False
) -> Tensor:
    """Return the GroupNorm of a channels-last tensor, computed in float32 and rounded once.

    Args:
        x: (B, C, H, W) in half precision, channels-last, with at most 1024 channels per group.
        groups: number of groups.
        weight, bias: (C,) parameters in any dtype; None leaves them out.
        eps: added to the variance.
        silu: apply SiLU to the result.

    Returns:
        (B, C, H, W), channels-last, in the dtype of x. It has no gradient.
    """
    from .group_norm_kernel import chunk_statistics, normalize

    batch, channels, height, width = x.shape
    pixels, depth = height * width, channels // groups
    block_d = max(16, 1 << (depth - 1).bit_length())
    block_g = min(max(1, 128 // block_d), 1 << (groups - 1).bit_length())
    block_p = min(_TILE_PIXELS, _TILE // (block_g * block_d))
    # A multiple of the tile, so that only an image's last tile is shorter.
    span = -(-pixels // (_MOST_CHUNKS * block_p)) * block_p
    chunks = -(-pixels // span)
    means, squares = torch.empty((2, batch, chunks, groups), dtype=torch.float32, device=x.device)
    target = torch.empty_like(x)  # channels-last, as x is
    group_blocks = -(-groups // block_g)
    blocks = dict(D=depth, BLOCK_P=block_p, BLOCK_G=block_g, BLOCK_D=block_d, num_warps=8)
    with torch.cuda.device_of(x):
        chunk_statistics[(chunks, group_blocks, batch)](
            x, means, squares, pixels, span, chunks, groups, **blocks
        )
        normalize[(-(-pixels // block_p), group_blocks, batch)](
            x,
            target,
            means,
            squares,
            x if weight is None else weight,
            x if bias is None else bias,
            pixels,
            span,
            chunks,
            groups,
            eps,
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            SILU=silu,
            MOST_CHUNKS=_MOST_CHUNKS,
            **blocks,
        )
    return target


def keep_channels_last(unet: nn.Module) -> None:
    """Make a UNet of diffusers keep its feature maps channels-last, with GroupNorms from these kernels.

    A SiLU that follows a norm directly is computed with it. Other inputs (float32, NCHW, not of images, or
    with gradient) are normalized by torch. The parameters stay the same.
    """
    modules = [*unet.modules()]
    with_silu = {id(norm) for module in modules for norm in _take_silu(module)}
    for module in modules:
        _keep_layout(module)
        if isinstance(module, nn.GroupNorm):
            _replace_forward(module, silu=id(module) in with_silu)


def _take_silu(module: Any) -> list[nn.Module]:
    """Make a module of diffusers skip SiLU after norms; return the norms that have to apply it."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D

    # Exact types, because a subclass may use its layers differently.
    if type(module) is ResnetBlock2D and isinstance(module.nonlinearity, nn.SiLU):
        if module.time_embedding_norm == "default":  # others scale the second norm before SiLU
            module.nonlinearity = _SiLUOfEmbeddings()
            return [module.norm1, module.norm2]
    elif type(module) is UNet2DConditionModel and isinstance(module.conv_act, nn.SiLU):
        module.conv_act = nn.Identity()
        return [module.conv_norm_out]
    return []


class _SiLUOfEmbeddings(nn.Module):
    """SiLU of embeddings (B, E); returns feature maps (B, C, H, W) unchanged, as their norm applied it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.ndim == 4 else F.silu(x)


def _replace_forward(norm: Any, silu: bool) -> None:
    own = norm.forward

    def forward(x: Tensor) -> Tensor:
        if _can_normalize(x, norm.num_groups):
            return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu)
        return F.silu(own(x)) if silu else own(x)

    norm.forward = forward


def _can_normalize(x: Tensor, groups: int) -> bool:
    return (
        x.ndim == 4
        and x.dtype in (torch.float16, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] <= _MOST_CHANNELS * groups
        and x.numel() > 0
        and not torch.is_grad_enabled()
    )


def _keep_layout(module: Any) -> None:
    """Make a Transformer2DModel of diffusers return channels-last; its own method copies to NCHW."""
    from diffusers import Transformer2DModel

    def output(
        hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        def as_images(rows: Tensor) -> Tensor:
            return rows.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)

        if module.use_linear_projection:
            return as_images(module.proj_out(hidden_states)) + residual
        return module.proj_out(as_images(hidden_states)) + residual

    if type(module) is Transformer2DModel:
        own = getattr(module, "_get_output_for_continuous_inputs", None)
        # A private method: replace only the one that is known.
        if own is not None and [*signature(own).parameters] == [*signature(output).parameters]:
            module._get_output_for_continuous_inputs = output
