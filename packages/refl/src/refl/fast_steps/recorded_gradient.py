"""A differentiable function recorded as CUDA graphs: one launch forward and one backward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reward_core.errors import CompilationWarning
from reward_core.runs.caller_warning import warn_caller
from reward_core.runs.cuda import tf32 as tf32_allowed
from reward_core.scoring.cuda_graph import LazyMemory, RecordedFunction, SharedMemory

from .other_tensors import call_with

logger = logging.getLogger(__name__)

_CALLS_BEFORE_RECORDING = 2


class RecordedGradient:
    """A differentiable function of tensors, after two calls as two CUDA graphs.

    The graph of the forward pass keeps no activations. That of the backward pass computes the forward pass
    again, as gradient checkpointing does, and adds to ``grad`` of the trained parameters. Both read the
    parameters where they are, so these must be changed in place only. Only the shapes of the first recorded
    call are recorded; other calls, and all calls after recording failed, are launched as usual.

    Args:
        module: the module that the function calls.
        parameters: name within the module -> trained parameter.
        memory: memory of the graphs.
        tf32: whether TF32 is allowed in the backward pass.
        after: another function with the same memory that is to be recorded before this one.

    Attributes:
        recorded: the graphs, once they are recorded.
        failed: why recording failed, if it did.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        memory: LazyMemory,
        tf32: bool,
        after: RecordedGradient | None = None,
    ):
        self.after = after
        self.module, self.parameters, self.memory, self.tf32 = module, parameters, memory, tf32
        self.recorded: _Graphs | None = None
        self.failed: str | None = None
        self._calls = 0

    def works_on(self, device: torch.device) -> bool:
        """Return whether calls are or will be recorded."""
        return device.type == "cuda" and self.failed is None

    def __call__(
        self, launched: Callable[..., Tensor], function: Callable[..., Tensor], key: tuple, *tensors: Tensor
    ) -> Tensor:
        """Return the function's result (B, ...), with gradient.

        Args:
            launched: the function as it is called unless it is recorded.
            function: the function to record; computed with and without gradient.
            key: everything else that the result depends on.
            tensors: its arguments (B, ...). The first one may require a gradient.
        """
        key = (*key, *((tensor.shape, tensor.dtype) for tensor in tensors))
        self._calls += 1
        waits = self.after is not None and self.after.recorded is None and self.after.failed is None
        if self.recorded is None and self._calls > _CALLS_BEFORE_RECORDING and not waits:
            self._record(key, function, tensors)
        if self.recorded is None or self.recorded.key != key:
            return launched(*tensors)
        anchor = next(iter(self.parameters.values()), None)
        return _Replayed.apply(self.recorded, anchor, *tensors)

    def _record(self, key: tuple, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        try:
            parts = self.module, function, self.parameters, tensors, self.memory.get(), self.tf32
            self.recorded = _Graphs(key, *parts)
        except Exception as error:  # any error of the model or the driver
            self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
            self.memory.forget()
            logger.info("recording failed", exc_info=error)
            warn_caller(
                f"Cannot record a training step as CUDA graphs: {self.failed}. It is launched as usual "
                "(slower). Set rollout.gradient_graphs=no.",
                CompilationWarning,
            )


class _Graphs:
    """Both graphs of a function.

    Args:
        key: what they are for.
        module: the module that the function calls.
        function: function of tensors.
        parameters: name within the module -> trained parameter.
        examples: its arguments.
        memory: memory of the graphs.
        tf32: whether TF32 is allowed in the backward pass.
    """

    def __init__(
        self,
        key: tuple,
        module: nn.Module,
        function: Callable[..., Tensor],
        parameters: Mapping[str, nn.Parameter],
        examples: tuple[Tensor, ...],
        memory: SharedMemory,
        tf32: bool,
    ):
        self.key, self.parameters = key, list(parameters.values())
        inputs = [example.detach() for example in examples]

        def backward(first: Tensor, *others: Tensor) -> list[Tensor | None]:
            *inputs, output_gradient = others
            # New leaves: autograd would wait for the stream on which others were used before.
            leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            first = first.detach().requires_grad_()
            sources = [*leaves.values(), first]

            def gradients() -> tuple[Tensor | None, ...]:
                output = function(first, *inputs)
                # As a launched backward pass, which runs outside of the contexts of the forward pass.
                with torch.autocast(first.device.type, enabled=False), tf32_allowed(tf32):
                    return torch.autograd.grad(output, sources, output_gradient, allow_unused=True)

            with torch.enable_grad():
                found = call_with(module, leaves, gradients)
            return _own_tensors(sources, found, output_gradient)

        with torch.no_grad():
            example = torch.zeros_like(function(*inputs))
        rows = len(inputs[0])
        self._backward = RecordedFunction(backward, rows, [*inputs, example], memory)
        # The tensors of the graph.
        self.gradients: list[Tensor | None] = self._backward.output[: len(parameters)]
        self.forward = RecordedFunction(function, rows, inputs, memory)

    def backward(self, *tensors: Tensor) -> Tensor | None:
        """Add to the gradients of the parameters; return that of the first input.

        Args:
            tensors: the arguments of the function and the gradient of its output.
        """
        # A gradient that is still in the memory of the graph would be overwritten.
        for parameter, gradient in zip(self.parameters, self.gradients):
            if gradient is not None and parameter.grad is gradient:
                parameter.grad = gradient.clone()
        *_, of_first = self._backward.in_place(*tensors)
        sums: list[Tensor] = []
        added: list[Tensor] = []
        for parameter, gradient in zip(self.parameters, self.gradients):
            if gradient is None:
                continue
            if parameter.grad is None:  # without a copy
                parameter.grad = gradient
            else:
                sums.append(parameter.grad)
                added.append(gradient)
        if sums:
            torch._foreach_add_(sums, added)
        return None if of_first is None else of_first.clone()


def _own_tensors(
    sources: Sequence[Tensor], gradients: Sequence[Tensor | None], output_gradient: Tensor
) -> list[Tensor | None]:
    """Return gradients with the strides of their sources, which fused optimizers need.

    Each has memory of its own. Autograd may return one tensor for several sources, or the gradient of the
    output.
    """
    used, own = {output_gradient.data_ptr()}, []
    for source, gradient in zip(sources, gradients):
        if gradient is not None and (gradient.stride() != source.stride() or gradient.data_ptr() in used):
            gradient = torch.empty_like(source).copy_(gradient)
        if gradient is not None:
            used.add(gradient.data_ptr())
        own.append(gradient)
    return own


class _Replayed(torch.autograd.Function):
    """A call of a recorded function.

    The parameter among its arguments makes the output require a gradient. Its own one is not returned but
    added by the graph, as for all parameters.
    """

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, parameter: nn.Parameter | None, *tensors: Tensor) -> Tensor:
        ctx.graphs = graphs
        ctx.save_for_backward(*tensors)
        return graphs.forward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tensors = ctx.saved_tensors
        of_first = ctx.graphs.backward(*tensors, gradient)
        needed = of_first if ctx.needs_input_grad[2] else None
        return None, None, needed, *(None for _ in tensors[1:])
