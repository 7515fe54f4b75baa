"""Gradient steps of the denoiser as CUDA graphs: one launch forward and one backward.

On a fast GPU, launching the thousands of kernels of a gradient step takes longer than computing them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reward_core.errors import CompilationWarning
from reward_core.runs.caller_warning import warn_caller
from reward_core.scoring.cuda_graph import RecordedFunction, SharedMemory

from .config import TrainConfig
from .errors import ConfigError
from .families import Condition, Family, Guidance
from .families.decoding import recompute_in_backward
from .other_tensors import call_with

logger = logging.getLogger(__name__)

_CALLS_BEFORE_RECORDING = 2
# A pass of a larger denoiser takes longer than launching it.
MOST_PARAMETERS = 4e9


def is_small(family: Family) -> bool:
    """Return whether launching the denoiser takes longer than computing it on a fast GPU."""
    return sum(parameter.numel() for parameter in family.denoiser.parameters()) <= MOST_PARAMETERS


def records_gradient(config: TrainConfig, family: Family) -> bool:
    """Return whether gradient steps are recorded on a GPU.

    Raises:
        ConfigError: graphs were asked for, and the denoiser does not support them.
    """
    rollout, model = config.rollout, config.model
    if rollout.gradient_graphs and not family.fixed_shapes:
        raise no_fixed_shapes("gradient_graphs", family)
    if rollout.gradient_graphs is not None:
        return rollout.gradient_graphs
    usual = rollout.gradient_checkpointing and not model.gradient_checkpointing and not model.compile
    return model.lora_rank > 0 and usual and family.fixed_shapes and is_small(family)


def no_fixed_shapes(setting: str, family: Family) -> ConfigError:
    """Return the error about a setting that needs fixed shapes."""
    return ConfigError(
        f"Cannot use rollout.{setting} with {type(family).__name__}: its shapes depend on the lengths of the "
        "prompts. Remove the setting."
    )


class GradientGraphs:
    """Computes gradient steps, after two calls with recorded CUDA graphs.

    The graph of the forward pass keeps no activations. That of the backward pass computes the forward pass
    again, as gradient checkpointing does, and adds to ``grad`` of the trained parameters. Both read the
    parameters where they are, so these must be changed in place only. The activations of a step stay
    allocated. Only the shapes of the first recorded call are recorded; other calls, those on a CPU, and all
    calls after recording failed are launched as usual.

    Args:
        family: family of the denoiser.
        parameters: name within the denoiser -> trained parameter.
        dtype: dtype of autocast; float32: no autocast.
    """

    def __init__(self, family: Family, parameters: Mapping[str, nn.Parameter], dtype: torch.dtype):
        self.family, self.parameters, self.dtype = family, parameters, dtype
        self.recorded: _Graphs | None = None
        self.failed: str | None = None
        self._calls = 0

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """Run the denoiser with guidance and gradient; return its output (B, C, h, w), float32.

        Activations are recomputed in the backward pass.
        """
        positive, negative = condition.positive, condition.negative or {}
        if latents.device.type != "cuda" or self.failed is not None:
            return self._launched(latents, timestep, condition, guidance)
        timesteps = timestep
        if not torch.is_tensor(timesteps):  # a graph reads the timestep from memory
            timesteps = torch.full((len(latents),), timesteps, device=latents.device)
        tensors = [latents, timesteps, *positive.values(), *negative.values()]
        shapes = [(t.shape, t.dtype) for t in tensors]
        key = (tuple(positive), tuple(negative), guidance, latents.requires_grad, *shapes)
        if self.recorded is None:
            self._calls += 1
            if self._calls > _CALLS_BEFORE_RECORDING:
                self._record(key, tensors, tuple(positive), tuple(negative), guidance)
        if self.recorded is None or self.recorded.key != key:
            return self._launched(latents, timestep, condition, guidance)
        return _Replayed.apply(self.recorded, self.recorded.parameters[0], *tensors)

    def _launched(self, *inputs: Any) -> Tensor:
        return recompute_in_backward(self.family.denoise, *inputs)

    def _record(
        self, key: tuple, tensors: list[Tensor], positive: tuple, negative: tuple, guidance: Guidance
    ) -> None:
        def denoise(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
            first = dict(zip(positive, encoded))
            second = dict(zip(negative, encoded[len(first) :]))
            # Weights that were cast outside of a graph would not follow the trained ones.
            half = None if self.dtype == torch.float32 else self.dtype
            with torch.autocast("cuda", half, enabled=half is not None, cache_enabled=False):
                return self.family.denoise(latents, timesteps, Condition(first, second or None), guidance)

        try:
            self.recorded = _Graphs(key, self.family.denoiser, denoise, self.parameters, tensors)
        except Exception as error:  # any error of the denoiser or the driver
            self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.info("recording failed", exc_info=error)
            warn_caller(
                f"Cannot record gradient steps as CUDA graphs: {self.failed}. They are launched as usual "
                "(slower). Set rollout.gradient_graphs=false.",
                CompilationWarning,
            )


class _Graphs:
    """Both graphs of a gradient step.

    Args:
        key: the settings and shapes that they are for.
        module: the denoiser.
        denoise: function of tensors that calls it.
        parameters: name within the module -> trained parameter.
        examples: arguments of ``denoise``; the first are the latents.
    """

    def __init__(
        self,
        key: tuple,
        module: nn.Module,
        denoise: Callable[..., Tensor],
        parameters: Mapping[str, nn.Parameter],
        examples: list[Tensor],
    ):
        self.key, self.parameters = key, list(parameters.values())
        needs_gradient = examples[0].requires_grad
        inputs = [example.detach() for example in examples]

        def backward(latents: Tensor, *others: Tensor) -> list[Tensor | None]:
            *encoded, output_gradient = others
            # New leaves: autograd would wait for the stream on which others were used before.
            leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            latents = latents.detach().requires_grad_(needs_gradient)
            sources = [*leaves.values(), latents] if needs_gradient else [*leaves.values()]

            def gradients() -> tuple[Tensor | None, ...]:
                output = denoise(latents, *encoded)
                return torch.autograd.grad(output, sources, output_gradient, allow_unused=True)

            with torch.enable_grad():
                found = call_with(module, leaves, gradients)
            return [_laid_out_as(source, gradient) for source, gradient in zip(sources, found)]

        memory, rows = SharedMemory(), len(inputs[0])
        example = torch.zeros_like(inputs[0], dtype=torch.float32)
        self._backward = RecordedFunction(backward, rows, [*inputs, example], memory)
        # The tensors of the graph.
        self.gradients: list[Tensor | None] = self._backward.output[: len(parameters)]
        self.forward = RecordedFunction(denoise, rows, inputs, memory)

    def backward(self, *tensors: Tensor) -> Tensor | None:
        """Add to the gradients of the parameters; return that of the latents, if it is needed.

        Args:
            tensors: the arguments of the denoiser and the gradient of its output.
        """
        # A gradient that is still in the memory of the graph would be overwritten.
        for parameter, gradient in zip(self.parameters, self.gradients):
            if gradient is not None and parameter.grad is gradient:
                parameter.grad = gradient.clone()
        latents_gradient = self._backward.in_place(*tensors)[len(self.parameters) :]
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
        return latents_gradient[0].clone() if latents_gradient else None


def _laid_out_as(source: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Return a gradient with the strides of its tensor, which fused optimizers need."""
    if gradient is None or gradient.stride() == source.stride():
        return gradient
    return torch.empty_like(source).copy_(gradient)


class _Replayed(torch.autograd.Function):
    """A gradient step from recorded graphs.

    The parameter among its arguments makes the output require a gradient. Its own one is not returned but
    added by the graphs, as for all parameters.
    """

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, parameter: nn.Parameter, *tensors: Tensor) -> Tensor:
        ctx.graphs = graphs
        ctx.save_for_backward(*tensors)
        return graphs.forward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        tensors = ctx.saved_tensors
        latents_gradient = ctx.graphs.backward(*tensors, gradient)
        return None, None, latents_gradient, *(None for _ in tensors[1:])
