"""A half-precision copy of the denoiser for the steps without gradient."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reward_core.scoring.compiling import CompiledByShape
from reward_core.scoring.fast_path import RECORD_FIXED_BATCH

from .dtypes import DTYPES, autocast
from .families import Condition, Family, Guidance


class NoGradCopy:
    """A copy of the denoiser that computes the steps without gradient.

    Under autocast the trained denoiser casts its float32 weights in every step and computes norms in
    float32. The copy holds half-precision weights with LoRA merged into them, in channels-last order for a
    UNet, so it reads less memory and launches fewer kernels. Gradient steps and validation do not use it.

    Args:
        family: family of the denoiser, before adapters are added to it.
        dtype: bf16, fp16, or auto: bf16 if the device supports it, else fp16.
        device: device of the copy.
        compile: run the copy through torch.compile.
        graphs: record the copy as CUDA graphs and replay them with one launch per step.

    Attributes:
        dtype: dtype of the copy.
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
        layout = torch.channels_last if family.part == "unet" else torch.preserve_format
        self.module: Any = copy.deepcopy(family.denoiser).requires_grad_(False).eval()
        # diffusers' own to() warns that it may keep modules in float32; these models have none.
        nn.Module.to(self.module, device, self.dtype)
        self.module.to(memory_format=layout)
        if compile:
            self.module.compile()
        self.graphs = graphs
        self.recorded: dict[tuple, CompiledByShape] = {}
        # The family with another denoiser; everything else is shared.
        self.family = copy.copy(family)
        self.family.pipeline = copy.copy(family.pipeline)
        self.family.denoiser = self.module

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the trained weights; merge LoRA adapters into theirs."""
        targets = dict(self.module.named_parameters())
        trained = self.trained.denoiser
        for name, layer in trained.named_modules():
            if hasattr(layer, "get_delta_weight"):  # a layer with LoRA adapters
                weight = layer.get_base_layer().weight.float()
                for adapter in layer.active_adapters:
                    weight = weight + layer.get_delta_weight(adapter).float()
                targets[f"{name}.weight"].copy_(weight)
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad and name in targets:
                targets[name].copy_(parameter)

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """Run the copy with guidance; return its output (B, C, h, w), float32."""
        if not self.graphs:
            return self._denoise(latents, timestep, condition, guidance)
        positive, negative = condition.positive, condition.negative or {}
        key = tuple(positive), tuple(negative), guidance
        if key not in self.recorded:

            def from_tensors(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
                first = dict(zip(positive, encoded))
                second = dict(zip(negative, encoded[len(first) :]))
                return self._denoise(latents, timesteps, Condition(first, second or None), guidance)

            self.recorded[key] = CompiledByShape(from_tensors, RECORD_FIXED_BATCH)
        timesteps = timestep
        if not torch.is_tensor(timesteps):  # a graph reads the timestep from memory
            timesteps = torch.full((len(latents),), timesteps, device=latents.device)
        return self.recorded[key](latents, timesteps, *positive.values(), *negative.values())

    def _denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        with autocast(latents.device, torch.float32):
            return self.family.denoise(latents, timestep, condition, guidance)


def _supported(device: torch.device) -> str:
    on_gpu = device.type == "cuda"
    return "fp16" if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
