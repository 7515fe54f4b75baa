"""A half-precision copy of the denoiser for the steps without gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reward_core.runs.cuda import computes_bfloat16
from reward_core.runs.triton_kernels import triton_runs_on
from reward_core.scoring.compiling import CompiledByShape
from reward_core.scoring.cuda_graph import LazyMemory
from reward_core.scoring.fast_path import RECORD_FIXED_BATCH

from ..dtypes import DTYPES, autocast
from ..families import Condition, Family, Guidance
from ..families.base import batch_of
from ..kernels.channels_last_norm import keep_channels_last


class NoGradCopy:
    """A copy of the denoiser that computes the steps without gradient.

    Under autocast the trained denoiser computes norms in float32, and every LoRA layer casts its inputs and
    factors and launches several kernels. The copy computes everything in half precision and adds LoRA with
    two products, so it reads less memory and launches fewer kernels. LoRA is not merged into the weights,
    because weights rounded to half precision lose most of a small change. Validation does not use the copy,
    and gradient steps take at most their forward pass from it.

    Frozen weights that have the dtype of the copy already are shared with the trained denoiser. The
    convolutions of a UNet are stored channels-last, also if they are shared. On a CUDA GPU, its GroupNorms
    are computed channels-last by a kernel of our own, with the SiLU that follows.

    Args:
        family: family of the denoiser, before adapters are added to it.
        dtype: bf16, fp16, or auto: bf16 if the device supports it, else fp16.
        device: device of the copy; shared weights are moved to it.
        compile: run the copy through torch.compile.
        graphs: record the copy as CUDA graphs and replay them with one launch per step.

    Attributes:
        dtype: dtype of the copy.
        memory: memory of its graphs. What they compute is copied, so others may use it between their calls.
        module: the copied denoiser.
    """

    def __init__(
        self,
        family: Family,
        dtype: str,
        device: torch.device,
        compile: bool = False,
        graphs: bool = False,
    ):
        self.trained = family
        self.dtype = DTYPES[_supported(device) if dtype == "auto" else dtype]
        # deepcopy takes parameters from here, so no float32 copy is made.
        weights = {id(p): _converted(p, self.dtype, device) for p in family.denoiser.parameters()}
        self.module: Any = copy.deepcopy(family.denoiser, weights).eval()
        # diffusers' own to() warns that it may keep modules in float32; these models have none.
        nn.Module.to(self.module, device, self.dtype)
        if family.part == "unet":
            self.module.to(memory_format=torch.channels_last)
            if triton_runs_on(device) and not compile:  # a compiler fuses norms itself
                keep_channels_last(self.module)
        if compile:
            self.module.compile()
        self.adapters: dict[str, _Adapters] | None = None
        self.graphs, self.memory = graphs, LazyMemory()
        self.recorded: dict[tuple, CompiledByShape] = {}
        # The family with another denoiser; everything else is shared.
        self.family = copy.copy(family)
        self.family.pipeline = copy.copy(family.pipeline)
        self.family.denoiser = self.module

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are not shared with the trained denoiser, with those of LoRA."""
        own, trained = dict(self.module.named_parameters()), dict(self.trained.denoiser.named_parameters())
        shared = {id(parameter) for parameter in trained.values()}
        sizes = [p.numel() for p in own.values() if id(p) not in shared]
        sizes += [p.numel() for name, p in trained.items() if p.requires_grad and name not in own]
        return sum(sizes) * self.dtype.itemsize

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the trained weights and the factors of LoRA adapters."""
        trained = self.trained.denoiser
        if self.adapters is None:
            self.adapters = self._add_adapters()
        targets = dict(self.module.named_parameters())
        pairs = [
            (targets[name], parameter.detach())
            for name, parameter in trained.named_parameters()
            if parameter.requires_grad and name in targets
        ]
        scales = [1.0] * len(pairs)
        for name, adapters in self.adapters.items():
            for target, source, scale in adapters.factors(trained.get_submodule(name)):
                pairs.append((target, source))
                scales.append(scale)
        _copy_all(pairs, scales)

    def _add_adapters(self) -> dict[str, _Adapters]:
        """Add the trained denoiser's LoRA adapters to the layers of the copy; return them by layer."""
        adapters: dict[str, _Adapters] = {}
        for name, layer in self.trained.denoiser.named_modules():
            if hasattr(layer, "lora_A"):  # a layer with LoRA adapters
                adapters[name] = _Adapters(layer, self.dtype)
                adapters[name].add_to(self.module.get_submodule(name))
        return adapters

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """Run the copy with guidance; return its output (B, C, h, w), float32."""
        if not self.graphs:
            return self._denoise(latents, timestep, condition, guidance)
        names = condition.names
        key = *names, guidance
        if key not in self.recorded:

            def from_tensors(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
                return self._denoise(latents, timesteps, Condition.from_tensors(names, encoded), guidance)

            self.recorded[key] = CompiledByShape(from_tensors, RECORD_FIXED_BATCH, self.memory)
        # A graph reads the timestep from memory.
        return self.recorded[key](latents, batch_of(timestep, latents), *condition.tensors)

    def _denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        with autocast(latents.device, torch.float32):
            return self.family.denoise(latents, timestep, condition, guidance)


class _Adapters:
    """The active LoRA adapters of a layer in half precision, as one of rank R, the sum of their ranks.

    Args:
        layer: layer of the trained denoiser.
        dtype: dtype of the factors.

    Attributes:
        a: first factors (R, in, ...); a convolution's have its kernel size.
        b: second factors (out, R, ...), times the scaling.
    """

    def __init__(self, layer: Any, dtype: torch.dtype):
        a, b = zip(*((a, b) for a, b, _ in _factors(layer)))
        self.a, self.b = torch.cat(a).to(dtype), torch.cat(b, 1).to(dtype)

    def factors(self, layer: Any) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield parts of the factors, the trained layer's tensors that belong there, and their scales."""
        first = 0
        for a, b, scaling in _factors(layer):
            ranks = slice(first, first + len(a))
            yield self.a[ranks], a, 1.0
            yield self.b[:, ranks], b, scaling
            first = ranks.stop

    def add_to(self, layer: Any) -> None:
        """Make a layer of the copy compute its output with the adapters."""
        forward = layer.forward

        def linear(x: Tensor) -> Tensor:
            rows = x.reshape(-1, x.shape[-1])
            # The change first: it is small, and would be lost if it were added to the rounded product.
            output = (rows @ self.a.t()) @ self.b.t()
            output.addmm_(rows, layer.weight.t())
            if layer.bias is not None:
                output += layer.bias
            return output.view(*x.shape[:-1], -1)

        def convolution(x: Tensor) -> Tensor:
            return forward(x) + F.conv2d(layer._conv_forward(x, self.a, None), self.b)

        layer.forward = linear if isinstance(layer, nn.Linear) else convolution


def _factors(layer: Any) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield both factors of each active adapter of a layer, and the scale of their product."""
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weights = layer.lora_A[name].weight, layer.lora_B[name].weight
            yield weights[0].detach(), weights[1].detach(), layer.scaling[name]


def _copy_all(pairs: Sequence[tuple[Tensor, Tensor]], scales: Sequence[float]) -> None:
    """Copy each second tensor times its scale to the first, in a few launches on a GPU."""
    together: list[tuple[Tensor, Tensor]] = []
    for (target, source), scale in zip(pairs, scales):
        source = source if scale == 1 else source * scale
        if target.stride() == source.stride():
            together.append((target, source))
        else:  # one of these would slow down the others
            target.copy_(source)
    if together:
        targets, sources = (list(tensors) for tensors in zip(*together))
        torch._foreach_copy_(targets, sources)


def _converted(parameter: nn.Parameter, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Return the parameter itself if it has the dtype, else a frozen copy."""
    if parameter.dtype == dtype:
        return parameter
    return nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)


def _supported(device: torch.device) -> str:
    return "fp16" if device.type == "cuda" and not computes_bfloat16(device) else "bf16"
