"""Group normalization of few large groups, which uses a whole GPU.

torch's kernel computes the mean and variance of each group of each image in one block. Decoding one image has
32 such blocks, fewer than a GPU has multiprocessors; the reduction of ``var_mean`` splits them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

DEVICES = {"cuda"}  # a CPU's kernel uses all cores
# With more groups, torch's kernel has a block for most multiprocessors. For smaller groups, starting the
# additional kernels takes as long as they save.
MOST_GROUPS = 127
LEAST_VALUES = 1 << 15  # of a group


class _GroupNorm(torch.autograd.Function):
    """Saves what torch's own function saves: the input, the weight, means and 1 / standard deviations."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        x = x.contiguous()
        batch, channels = x.shape[:2]
        variance, mean = torch.var_mean(x.view(batch, groups, -1), 2, correction=0)
        rstd = variance.add_(eps).rsqrt_()
        # x * scale + shift takes one pass
        scale, offset = rstd[..., None], mean[..., None]
        if weight is not None:
            scale = scale * weight.view(1, groups, -1)
        if bias is None:
            shift = -offset * scale
        else:
            shift = torch.addcmul(bias.view(1, groups, -1), offset, scale, value=-1)
        grouped = x.view(batch, groups, channels // groups, -1)
        result = torch.addcmul(shift[..., None], grouped, scale[..., None])
        context.groups = groups
        context.save_for_backward(x, weight, mean, rstd)
        return result.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = context.saved_tensors
        for_x, _, for_weight, for_bias, _ = context.needs_input_grad
        batch, channels = x.shape[:2]
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            gradient.contiguous(), x, mean, rstd, weight, batch, channels, x[0, 0].numel(), context.groups,
            [for_x, for_weight, for_bias],
        )  # fmt: skip
        return of_x, None, of_weight, of_bias, None


def split_group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize groups of channels, as ``torch.nn.functional.group_norm`` does.

    Its gradient cannot be differentiated again.

    Args:
        x: (N, C, ...) values in float32 or float64; with autocast, any other floats become float32, as in
            torch's function on a GPU.
        groups: number of groups, a divisor of C.
        weight: (C,) scale of each channel.
        bias: (C,) shift of each channel.
        eps: added to the variance.

    Returns:
        Normalized values, of the shape of x.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.float()
        weight, bias = (None if tensor is None else tensor.float() for tensor in (weight, bias))
    return _GroupNorm.apply(x, groups, weight, bias, eps)


class _SplitGroupNorms(TorchFunctionMode):
    """Computes few large groups with ``split_group_norm``; other functions are torch's own."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.group_norm and _is_split(*args, **kwargs):
            return split_group_norm(*args, **kwargs)
        return function(*args, **kwargs)


def _is_split(x: Tensor, num_groups: int, weight: Tensor | None = None, *_: Any, **__: Any) -> bool:
    """Return whether a call of group_norm has few large groups in float32."""
    if x.dim() < 3 or x.shape[1] % num_groups or x.device.type not in DEVICES:
        return False
    groups = len(x) * num_groups
    single = {x.dtype, x.dtype if weight is None else weight.dtype} == {torch.float32}
    in_float32 = single or (torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64)
    return in_float32 and 0 < groups <= MOST_GROUPS and x.numel() // groups >= LEAST_VALUES


def split_group_norms(module: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that computes few large groups of a module with ``split_group_norm``.

    It counts for the thread that enters it. A function that is computed again in the backward pass must
    enter it itself.

    Args:
        module: module that is called in the context.
        device: device of the module.
    """
    has_norms = any(isinstance(part, nn.GroupNorm) for part in module.modules())
    return _SplitGroupNorms() if has_norms and device.type in DEVICES else nullcontext()
