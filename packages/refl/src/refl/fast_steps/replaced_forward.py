"""A differentiable function whose result comes from a faster one, and its gradient from itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_forward(fast: Callable[..., Tensor], function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return ``fast(*tensors)``, with the gradient of ``function``, which the backward pass computes.

    So no activations are kept, as with gradient checkpointing.

    Args:
        fast: computes nearly the same as the function, without gradient.
        function: the differentiable function. The backward pass adds to ``grad`` of the
            parameters that it reads.
        tensors: the arguments. The first one may require a gradient.
    """
    anchor = torch.zeros((), requires_grad=True)  # so that the result requires a gradient
    return _WithForward.apply(fast, function, anchor, *tensors)


class _WithForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fast: Any, function: Any, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return fast(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        first, *others = ctx.saved_tensors
        first = first.detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.function(first, *others)
        torch.autograd.backward(output, gradient)
        needed = first.grad if ctx.needs_input_grad[3] else None
        return None, None, None, needed, *(None for _ in others)
