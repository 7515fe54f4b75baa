"""Parts of a training step as CUDA graphs: one launch forward and one backward.

On a fast GPU, launching the thousands of kernels of a gradient step takes longer than computing them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reward_core.errors import CompilationWarning
from reward_core.runs.caller_warning import warn_caller
from reward_core.runs.cuda import tf32, upload
from reward_core.scoring.cuda_graph import RecordedFunction, SharedMemory
from reward_core.scoring.scoring_model import ScoringModel

from .dtypes import DTYPES, autocast
from .errors import ConfigError
from .families import Condition, Family, Guidance
from .families.decoding import recompute_in_backward
from .other_tensors import call_with
from .rewards import Reward

logger = logging.getLogger(__name__)

_CALLS_BEFORE_RECORDING = 2
# A pass of a larger denoiser takes longer than launching it.
MOST_PARAMETERS = 4e9


def is_small(family: Family) -> bool:
    """Return whether launching the denoiser takes longer than computing it on a fast GPU."""
    return sum(parameter.numel() for parameter in family.denoiser.parameters()) <= MOST_PARAMETERS


def no_fixed_shapes(setting: str, family: Family) -> ConfigError:
    """Return the error about a setting that needs fixed shapes."""
    return ConfigError(
        f"Cannot use rollout.{setting} with {type(family).__name__}: its shapes depend on the lengths of the "
        "prompts. Remove the setting."
    )


class GradientGraphs:
    """Gradient steps of the denoiser, the decoder and rewards as CUDA graphs. On a CPU, nothing is recorded.

    Args:
        family: the model.
        parameters: name within the denoiser -> trained parameter.
        dtype: dtype of the denoiser's autocast; float32: no autocast.
        decode_dtype: dtype of the decoder's autocast.
        everything: also record the decoder; otherwise the denoiser only.
    """

    def __init__(
        self,
        family: Family,
        parameters: Mapping[str, nn.Parameter],
        dtype: torch.dtype,
        decode_dtype: torch.dtype,
        everything: bool,
    ):
        self.family, self.dtype, self.decode_dtype = family, dtype, decode_dtype
        self.memory = memory = _LazyMemory()
        self.denoiser = RecordedGradient(lambda: family.denoiser, parameters, memory)
        self.decoder = RecordedGradient(lambda: family.pipeline.vae, {}, memory) if everything else None

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """Run the denoiser with guidance and gradient; return its output (B, C, h, w), float32.

        Activations are recomputed in the backward pass.
        """
        if not self.denoiser.works_on(latents.device):
            return recompute_in_backward(self.family.denoise, latents, timestep, condition, guidance)
        positive, negative = condition.positive, condition.negative or {}
        timesteps = timestep
        if not torch.is_tensor(timesteps):  # a graph reads the timestep from memory
            timesteps = torch.full((len(latents),), timesteps, device=latents.device)

        def denoise(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
            first = dict(zip(positive, encoded))
            second = dict(zip(negative, encoded[len(first) :]))
            # Weights that were cast outside of a graph would not follow the trained ones.
            half = None if self.dtype == torch.float32 else self.dtype
            with torch.autocast(latents.device.type, half, enabled=half is not None, cache_enabled=False):
                return self.family.denoise(latents, timesteps, Condition(first, second or None), guidance)

        key = tuple(positive), tuple(negative), guidance
        tensors = latents, timesteps, *positive.values(), *negative.values()
        return self.denoiser(partial(recompute_in_backward, denoise), denoise, key, *tensors)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode clean latents (B, C, h, w) to pixels (B, 3, H, W) in [0, 1], float32, differentiably.

        Activations are recomputed in the backward pass.
        """

        def decode(latents: Tensor) -> Tensor:
            return self.family.decode(latents, True, self.decode_dtype)

        decoder = self.decoder
        if decoder is None or not decoder.works_on(latents.device) or not latents.requires_grad:
            return decode(latents)
        return decoder(decode, decode, (), latents)

    def record(self, rewards: Iterable[Reward]) -> None:
        """Record rewards whose prompts become tensors before the images are needed."""
        for reward in rewards:
            model = getattr(reward.function, "__self__", None)
            own = getattr(type(model), "rewards_from_pixels", None)
            if isinstance(model, ScoringModel) and own is ScoringModel.rewards_from_pixels:
                reward.recorded = _RecordedReward(model, DTYPES[reward.config.dtype], self.memory)


class _RecordedReward:
    """A reward model as CUDA graphs, with prompts padded to its largest number of tokens."""

    def __init__(self, model: ScoringModel, dtype: torch.dtype, memory: _LazyMemory):
        self.model, self.dtype = model, dtype
        self.gradient = RecordedGradient(lambda: model, {}, memory)

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards (N,) of pixels (N, 3, H, W) and N prompts."""
        model = self.model
        usual = len(pixels) == len(prompts) and pixels.device == model.device and pixels.requires_grad
        if not usual or not self.gradient.works_on(pixels.device):
            return model.rewards_from_pixels(pixels, prompts)

        def rewards(pixels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
            with tf32(False), autocast(pixels.device, self.dtype):
                return model(model.transform(pixels), token_ids, mask).float()

        token_ids, mask = model.tokenizer(prompts, length=model.tokenizer.max_length)
        tensors = pixels, upload(token_ids, model.device), upload(mask, model.device)
        return self.gradient(rewards, rewards, (), *tensors)


class RecordedGradient:
    """A differentiable function of tensors, after two calls as two CUDA graphs.

    The graph of the forward pass keeps no activations. That of the backward pass computes the forward pass
    again, as gradient checkpointing does, and adds to ``grad`` of the trained parameters. Both read the
    parameters where they are, so these must be changed in place only. Only the shapes of the first recorded
    call are recorded; other calls, and all calls after recording failed, are launched as usual.

    Args:
        module: returns the module that the function calls.
        parameters: name within the module -> trained parameter.
        memory: memory of the graphs.

    Attributes:
        recorded: the graphs, once they are recorded.
        failed: why recording failed, if it did.
    """

    def __init__(
        self, module: Callable[[], nn.Module], parameters: Mapping[str, nn.Parameter], memory: _LazyMemory
    ):
        self.module, self.parameters, self.memory = module, parameters, memory
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
        shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]
        key = (*key, tensors[0].requires_grad, *shapes)
        self._calls += 1
        if self.recorded is None and self._calls > _CALLS_BEFORE_RECORDING:
            self._record(key, function, tensors)
        if self.recorded is None or self.recorded.key != key:
            return launched(*tensors)
        anchor = next(iter(self.parameters.values()), None)
        return _Replayed.apply(self.recorded, anchor, *tensors)

    def _record(self, key: tuple, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        try:
            memory = self.memory.get()
            self.recorded = _Graphs(key, self.module(), function, self.parameters, tensors, memory)
        except Exception as error:  # any error of the model or the driver
            self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
            self.memory.forget()
            logger.info("recording failed", exc_info=error)
            warn_caller(
                f"Cannot record a training step as CUDA graphs: {self.failed}. It is launched as usual "
                "(slower). Set rollout.gradient_graphs=false.",
                CompilationWarning,
            )


class _LazyMemory:
    """The memory of graphs that never run at once, allocated at the first recording."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    def get(self) -> SharedMemory:
        self._memory = self._memory or SharedMemory()
        return self._memory

    def forget(self) -> None:
        """Use new memory from now on: torch cannot record into memory that no graph uses any more."""
        self._memory = None


class _Graphs:
    """Both graphs of a function.

    Args:
        key: what they are for.
        module: the module that the function calls.
        function: function of tensors.
        parameters: name within the module -> trained parameter.
        examples: its arguments.
        memory: memory of the graphs.
    """

    def __init__(
        self,
        key: tuple,
        module: nn.Module,
        function: Callable[..., Tensor],
        parameters: Mapping[str, nn.Parameter],
        examples: tuple[Tensor, ...],
        memory: SharedMemory,
    ):
        self.key, self.parameters = key, list(parameters.values())
        needs_gradient = examples[0].requires_grad
        inputs = [example.detach() for example in examples]

        def backward(first: Tensor, *others: Tensor) -> list[Tensor | None]:
            *inputs, output_gradient = others
            # New leaves: autograd would wait for the stream on which others were used before.
            leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            first = first.detach().requires_grad_(needs_gradient)
            sources = [*leaves.values(), first] if needs_gradient else [*leaves.values()]

            def gradients() -> tuple[Tensor | None, ...]:
                output = function(first, *inputs)
                return torch.autograd.grad(output, sources, output_gradient, allow_unused=True)

            with torch.enable_grad():
                found = call_with(module, leaves, gradients)
            return [_laid_out_as(source, gradient) for source, gradient in zip(sources, found)]

        with torch.no_grad():
            example = torch.zeros_like(function(*inputs))
        rows = len(inputs[0])
        self._backward = RecordedFunction(backward, rows, [*inputs, example], memory)
        # The tensors of the graph.
        self.gradients: list[Tensor | None] = self._backward.output[: len(parameters)]
        self.forward = RecordedFunction(function, rows, inputs, memory)

    def backward(self, *tensors: Tensor) -> Tensor | None:
        """Add to the gradients of the parameters; return that of the first input, if it is needed.

        Args:
            tensors: the arguments of the function and the gradient of its output.
        """
        # A gradient that is still in the memory of the graph would be overwritten.
        for parameter, gradient in zip(self.parameters, self.gradients):
            if gradient is not None and parameter.grad is gradient:
                parameter.grad = gradient.clone()
        of_first = self._backward.in_place(*tensors)[len(self.parameters) :]
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
        return of_first[0].clone() if of_first else None


def _laid_out_as(source: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Return a gradient with the strides of its tensor, which fused optimizers need."""
    if gradient is None or gradient.stride() == source.stride():
        return gradient
    return torch.empty_like(source).copy_(gradient)


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
        return None, None, of_first, *(None for _ in tensors[1:])
