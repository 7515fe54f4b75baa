"""The interface of a family of diffusion models, as the trainer uses it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..dtypes import autocast
from ..noise_schedule import NoiseSchedule, make_schedule
from ..rollout import clear_autocast_cache
from .decoding import Recompute, decode_in_chunks, images_per_chunk, recompute_in_backward

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


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a rollout.

    Attributes:
        scale: guidance scale; 1 disables guidance.
        negative_gradient: also backpropagate through the branch of the negative prompt.
    """

    scale: float = 1.0
    negative_gradient: bool = True


class Family(ABC):
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
        fixed_shapes: whether the shapes of the inputs determine all shapes within the denoiser, so that
            CUDA graphs can replay it.
    """

    part: ClassVar[str] = "unet"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "ddpm", "euler")
    lora_targets: ClassVar[tuple[str, ...]] = LORA_TARGETS
    scale_is_input: ClassVar[bool] = False
    fixed_shapes: ClassVar[bool] = True

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
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

    @property
    def device(self) -> torch.device:
        """The device of the denoiser."""
        return next(self.denoiser.parameters()).device

    def enable_tiling(self) -> None:
        """Decode images in tiles."""
        self.pipeline.vae.enable_tiling()

    def clear_caches(self) -> None:  # noqa: B027 - most denoisers keep none
        """Drop tensors of one device that the denoiser keeps from one call to the next."""

    @property
    def scale_factor(self) -> int:
        """Image pixels per latent along one side."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Number of pixels that image sides must be a multiple of."""
        return self.scale_factor

    @property
    def default_size(self) -> int:
        """The model's native image side in pixels."""
        return int(self.denoiser.config.sample_size) * self.scale_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents for an image size in pixels."""
        return (
            self.pipeline.vae.config.latent_channels,
            height // self.scale_factor,
            width // self.scale_factor,
        )

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        """Return the levels of ``steps`` steps; an empty sampler is the default."""
        return make_schedule(self.pipeline.scheduler, steps, sampler or self.samplers[0])

    @abstractmethod
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        """Encode prompts for the denoiser, without gradient.

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

    def decode(
        self, latents: Tensor, gradient_checkpointing: bool = True, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Decode clean latents to images, differentiably.

        Images are decoded in chunks of at most 512 x 512 pixels in all, but at least one image, so that a
        large batch needs no more memory for activations than a small one.

        Values outside [0, 1] are clamped, but the gradient ignores the clamp, so that saturated pixels can
        still change.

        Args:
            latents: (B, C, h, w) clean latents.
            gradient_checkpointing: recompute the decoder's activations in the backward pass, at most a
                chunk and usually a block at once.
            dtype: float32, or a half-precision dtype for autocast. A VAE whose config has force_upcast
                overflows in float16, so it is then decoded in float32.

        Returns:
            Pixels (B, 3, H, W) in [0, 1], float32.
        """
        vae = self.pipeline.vae
        scaled = self._unscale(latents).to(vae.dtype)
        if dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            dtype = torch.float32
        differentiable = torch.is_grad_enabled() and scaled.requires_grad
        recompute = recompute_in_backward if gradient_checkpointing and differentiable else None
        with autocast(latents.device, dtype):
            decoded = self.run_decoder(scaled, recompute)
        pixels = decoded.float() / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    def run_decoder(self, latents: Tensor, recompute: Recompute | None = None) -> Tensor:
        """Decode the autoencoder's latents, a chunk of at most 512 x 512 pixels after the other.

        Args:
            latents: (B, C, h, w) latents of the autoencoder, not scaled for the denoiser.
            recompute: see ``decode_in_chunks``.

        Returns:
            Images (B, 3, H, W), about in [-1, 1].
        """
        height, width = (side * self.scale_factor for side in latents.shape[-2:])
        chunk, decoder = images_per_chunk(height, width), self.pipeline.vae.decoder
        return decode_in_chunks(self._vae_decode, decoder, latents, chunk, recompute)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Encode images to latents, sampled from the autoencoder's distribution.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            noise: (B, C, h, w) standard normal noise to sample with; unused by an AutoencoderTiny, which
                has no distribution.

        Returns:
            Latents (B, C, h, w), float32.
        """
        mean, std = self._vae_encode((pixels * 2 - 1).to(self.pipeline.vae.dtype))
        return self._scale(mean.float() if std is None else mean.float() + std.float() * noise)

    def _vae_encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode pixels (B, 3, H, W) in [-1, 1].

        Returns:
            Mean and standard deviation (B, C, h, w) of the latents; None instead of the deviation if the
            autoencoder has no distribution.
        """
        encoded = self.pipeline.vae.encode(pixels)
        if not hasattr(encoded, "latent_dist"):
            return encoded.latents, None
        return encoded.latent_dist.mean, encoded.latent_dist.std

    def _vae_decode(self, latents: Tensor) -> Tensor:
        """Decode the autoencoder's latents (B, C, h, w) to pixels (B, 3, H, W), about in [-1, 1]."""
        return self.pipeline.vae.decode(latents, return_dict=False)[0]

    def _scale(self, latents: Tensor) -> Tensor:
        """Scale the autoencoder's latents for the denoiser; inverts ``_unscale``."""
        config, moments = self.pipeline.vae.config, self._moments(latents)
        if moments is not None:
            mean, std = moments
            return (latents - mean) * getattr(config, "scaling_factor", 1) / std
        return (latents - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def _unscale(self, latents: Tensor) -> Tensor:
        config, moments = self.pipeline.vae.config, self._moments(latents)
        if moments is not None:
            mean, std = moments
            return latents * std / getattr(config, "scaling_factor", 1) + mean
        return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and std (1, C, 1, 1) of the latents, if the config has them."""
        config = self.pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None
        mean, std = (constant(tuple(values), latents.device, latents.dtype) for values in (mean, std))
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def batch_of(timestep: float | Tensor, latents: Tensor) -> Tensor:
    """Expand a timestep to (B,) on the device of the latents."""
    if isinstance(timestep, Tensor):
        return timestep.to(latents.device, torch.float32).expand(len(latents))
    # Unlike a copy from the CPU, filling does not wait for the GPU.
    return torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)


@cache  # recorded CUDA graphs read these tensors
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return values as a tensor; cached, because the copy to a GPU waits for it."""
    with torch.inference_mode(False):  # a later call may need gradients
        return torch.tensor(values, device=device, dtype=dtype)
