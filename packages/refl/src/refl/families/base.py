"""The interface of a family of diffusion models, as the trainer uses it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..denoising.noise_schedule import NoiseSchedule, make_schedule
from ..denoising.rollout import clear_autocast_cache
from ..errors import ConfigError
from .latent_images import LatentImages
from .text_encoders import OffloadedTextEncoders, is_text_encoder

Tensors = dict[str, Tensor]
DISTILLED = {"distilled", "hyper", "lcm", "lightning", "schnell", "turbo"}  # words in names of models

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
# Transformers whose attention joins image and text have projections for each.
JOINT_LORA_TARGETS = (*LORA_TARGETS, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass
class Condition:
    """Encoded prompts.

    Attributes:
        positive: name -> tensor of the encoded prompts; the names depend on the family, the first
            dimension is the batch.
        negative: the same for the negative prompt; None without classifier-free guidance.
    """

    positive: Tensors
    negative: Tensors | None = None

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of ``tensors``: of the prompts and of the negative prompt."""
        return tuple(self.positive), tuple(self.negative or {})

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, for a CUDA graph, which reads its inputs from memory."""
        return *self.positive.values(), *(self.negative or {}).values()

    @classmethod
    def from_tensors(
        cls, names: tuple[tuple[str, ...], tuple[str, ...]], tensors: Sequence[Tensor]
    ) -> Condition:
        """Return the condition with these ``names`` and ``tensors``."""
        positive, negative = names
        first, second = tensors[: len(positive)], tensors[len(positive) :]
        return cls(dict(zip(positive, first)), dict(zip(negative, second)) or None)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a rollout.

    Attributes:
        scale: guidance scale; 1 disables guidance.
        negative_gradient: also backpropagate through the branch of the negative prompt.
    """

    scale: float = 1.0
    negative_gradient: bool = True


class Family(LatentImages, ABC):
    """Base class of the families: a diffusers pipeline with frozen weights.

    Args:
        pipeline: the pipeline, as ``from_pretrained`` returns it.

    Attributes:
        pipeline: the pipeline.
        part: attribute of the pipeline that is trained: "unet" or "transformer".
        samplers: samplers that fit the model, the default first.
        lora_targets: names of the linear layers that get LoRA adapters by default.
        scale_is_input: whether the model takes the guidance scale as an input, so that guidance costs no
            second pass for a negative prompt.
        offloaded: the text encoders, if they are on the CPU while they are not used.
        fixed_shapes: whether the shapes of the inputs determine all shapes within the denoiser, and it copies
            nothing from the host, so that CUDA graphs can replay it.
    """

    part: ClassVar[str] = "unet"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "ddpm", "euler")
    lora_targets: ClassVar[tuple[str, ...]] = LORA_TARGETS
    scale_is_input: ClassVar[bool] = False
    fixed_shapes: ClassVar[bool] = True
    _input_dtype: torch.dtype | None = None

    def __init__(self, pipeline: Any):
        super().__init__(pipeline)
        self.offloaded: OffloadedTextEncoders | None = None
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return getattr(self.pipeline, self.part)

    @denoiser.setter
    def denoiser(self, module: nn.Module) -> None:
        setattr(self.pipeline, self.part, module)

    def distillation(self, name: str) -> str:
        """Return how one sees that the model was distilled to few steps; empty if it was not.

        Args:
            name: hub id or path of the model.
        """
        scheduler = type(self.pipeline.scheduler).__name__
        if scheduler in ("LCMScheduler", "TCDScheduler"):
            return f"it was distilled to few steps (its scheduler is {scheduler})"
        if self.pipeline.config.get("is_distilled"):
            return "it was distilled to few steps (is_distilled in its model_index.json)"
        if self.denoiser.config.get("time_cond_proj_dim"):
            return "it was distilled to few steps (its time_cond_proj_dim is that of consistency models)"
        last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
        words = DISTILLED & {*re.split(r"[^a-z]+", last)}
        return f"it was distilled to few steps (its name has {min(words)!r})" if words else ""

    def move_to(self, device: torch.device, offload_text_encoders: bool = False) -> None:
        """Move the pipeline to a device.

        Args:
            device: the device.
            offload_text_encoders: keep the text encoders on the CPU, and have them on the device in
                ``encoding`` only.
        """
        if not offload_text_encoders:
            self.pipeline.to(device)
            return
        self.offloaded = OffloadedTextEncoders(self.pipeline, device)
        for name, module in self.pipeline.components.items():
            if isinstance(module, nn.Module) and not is_text_encoder(name, module):
                module.to(device)

    def encoding(self) -> AbstractContextManager[None]:
        """Return the context in which prompts are encoded."""
        return nullcontext() if self.offloaded is None else self.offloaded.on_device()

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of the denoiser's inputs: that of its weights, unless it was set."""
        dtype: torch.dtype = self._input_dtype or self.denoiser.dtype
        return dtype

    @input_dtype.setter
    def input_dtype(self, dtype: torch.dtype) -> None:
        self._input_dtype = dtype

    @property
    def device(self) -> torch.device:
        """The device of the denoiser."""
        return next(self.denoiser.parameters()).device

    def clear_caches(self) -> None:
        """Drop tensors of one device that the denoiser keeps from one call to the next."""

    @property
    def size_multiple(self) -> int:
        """Number of pixels that image sides must be a multiple of."""
        return self.scale_factor

    @property
    def default_size(self) -> int:
        """The model's native image side in pixels."""
        return int(self.denoiser.config.sample_size) * self.scale_factor

    def image_size(self, height: int = 0, width: int = 0) -> tuple[int, int]:
        """Return height and width of images in pixels.

        Args:
            height: the height; 0: the model's native size.
            width: the width; 0: the same as the height.

        Raises:
            ConfigError: a side is not a multiple of ``size_multiple``.
        """
        height = height or self.default_size
        width, multiple = width or height, self.size_multiple
        if height % multiple or width % multiple:
            raise ConfigError(
                f"Cannot train on images of {height} x {width} pixels: rollout.height and rollout.width must "
                f"be multiples of {multiple}."
            )
        return height, width

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        """Return the levels of ``steps`` steps; an empty sampler is the default."""
        return make_schedule(self.pipeline.scheduler, steps, sampler or self.samplers[0])

    @abstractmethod
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        """Encode prompts for the denoiser, without gradient, in the context of ``encoding``.

        Args:
            prompts: B prompts.
            negative: negative prompt of classifier-free guidance; None without guidance.
        """

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of an encoded prompt, without the batch.

        A family that reads them from configurations can be checked without weights (``refl train
        --dry-run``); by default, a prompt is encoded.
        """
        encoded = self.encode(["a prompt"]).positive
        return {name: tuple(value.shape[1:]) for name, value in encoded.items()}

    @abstractmethod
    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        """Run the denoiser.

        Args:
            latents: (B, C, h, w) noisy latents.
            timestep: one number or (B,) numbers.
            condition: encoded prompts.
            guidance: guidance scale, for models that take it as an input.

        Returns:
            The denoiser's output (B, C, h, w).
        """

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """Run the denoiser with guidance; return its output (B, C, h, w), float32."""
        if condition.negative is None:
            return self.predict(latents, timestep, condition.positive, guidance.scale).float()
        if guidance.negative_gradient or not torch.is_grad_enabled():
            both = {k: torch.cat([condition.negative[k], v]) for k, v in condition.positive.items()}
            timesteps = timestep.repeat(2) if isinstance(timestep, Tensor) and timestep.ndim else timestep
            output = self.predict(torch.cat([latents, latents]), timesteps, both, guidance.scale).float()
            negative, positive = output.chunk(2)
        else:
            with torch.no_grad():
                negative = self.predict(latents, timestep, condition.negative, guidance.scale).float()
            clear_autocast_cache()
            positive = self.predict(latents, timestep, condition.positive, guidance.scale).float()
        return self.guide(negative, positive, guidance.scale)

    def guide(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        """Combine the outputs (B, C, h, w) for the negative and the positive prompt."""
        return negative + scale * (positive - negative)


def batch_of(timestep: float | Tensor, latents: Tensor) -> Tensor:
    """Expand a timestep to (B,) on the device of the latents."""
    if isinstance(timestep, Tensor):
        return timestep.to(latents.device, torch.float32).expand(len(latents))
    # Unlike a copy from the CPU, filling does not wait for the GPU.
    return torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)
