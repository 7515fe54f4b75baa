"""What a family of diffusion models must offer; the trainer knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..noise_schedule import NoiseSchedule, make_schedule
from ..rollout import clear_autocast_cache

Tensors = dict[str, Tensor]


@dataclass
class Condition:
    """Encoded prompts. ``negative`` is there where classifier-free guidance is used.

    Every tensor has the batch as its first dimension; which tensors there are is the family's affair.
    """

    positive: Tensors
    negative: Tensors | None = None


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a rollout.

    Attributes:
        scale: 1 is none.
        negative_gradient: whether gradient also passes through the negative prompt's branch.
    """

    scale: float = 1.0
    negative_gradient: bool = True


class Family(ABC):
    """A diffusers pipeline as the trainer sees it.

    Attributes:
        pipeline: what ``from_pretrained`` gave.
        part: the pipeline's attribute that is trained: "unet" or "transformer".
        samplers: the samplers that go with the model, the default first.
        lora_targets: the linear layers that LoRA adapts by default.
    """

    part: ClassVar[str] = "unet"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "ddpm", "euler")
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipeline, self.part)

    @denoiser.setter
    def denoiser(self, module: nn.Module) -> None:
        setattr(self.pipeline, self.part, module)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def scale_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this."""
        return self.scale_factor

    @property
    def default_size(self) -> int:
        """The side, in pixels, that the model was made for."""
        return int(self.denoiser.config.sample_size) * self.scale_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of an image."""
        return (
            self.pipeline.vae.config.latent_channels,
            height // self.scale_factor,
            width // self.scale_factor,
        )

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        return make_schedule(self.pipeline.scheduler, steps, sampler or self.samplers[0])

    @abstractmethod
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        """Prompts -> what the denoiser needs of them, without gradient.

        Args:
            prompts: B strings.
            negative: the negative prompt where guidance is used, else None.
        """

    @abstractmethod
    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        """The denoiser's output (B, C, h, w) for latents (B, C, h, w); timestep one number or (B,)."""

    def denoise(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, guidance: Guidance
    ) -> Tensor:
        """``predict`` with guidance, float32."""
        if condition.negative is None:
            return self.predict(latents, timestep, condition.positive, guidance.scale).float()
        if guidance.negative_gradient or not torch.is_grad_enabled():
            both = {k: torch.cat([condition.negative[k], v]) for k, v in condition.positive.items()}
            twice = timestep.repeat(2) if isinstance(timestep, Tensor) and timestep.ndim else timestep
            output = self.predict(torch.cat([latents, latents]), twice, both, guidance.scale).float()
            negative, positive = output.chunk(2)
        else:
            with torch.no_grad():
                negative = self.predict(latents, timestep, condition.negative, guidance.scale).float()
            clear_autocast_cache()
            positive = self.predict(latents, timestep, condition.positive, guidance.scale).float()
        return negative + guidance.scale * (positive - negative)

    def decode(self, latents: Tensor, gradient_checkpointing: bool = True) -> Tensor:
        """Clean latents (B, C, h, w) -> pixels (B, 3, H, W) in [0, 1], float32, differentiable.

        Values beyond the range are clamped, but gradient passes as if they were not, so that a sample at
        the border can still move. ``gradient_checkpointing`` keeps no activations and computes them in the
        backward pass.
        """
        vae = self.pipeline.vae
        scaled = self._unscale(latents).to(vae.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            if gradient_checkpointing and torch.is_grad_enabled() and scaled.requires_grad:
                decoded = checkpoint(_decode, vae, scaled, use_reentrant=False, preserve_rng_state=False)
            else:
                decoded = _decode(vae, scaled)
        pixels = decoded.float() / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w), drawn with the given normal noise.

        An AutoencoderTiny gives one answer and not a distribution: then the noise has no part.
        """
        vae = self.pipeline.vae
        encoded = vae.encode((pixels * 2 - 1).to(vae.dtype))
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mean.float() + encoded.latent_dist.std.float() * noise
        else:
            latents = encoded.latents.float()
        return self._scale(latents)

    def _scale(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents as the denoiser knows them; the inverse of ``_unscale``."""
        config, moments = self.pipeline.vae.config, self._moments(latents)
        if moments is not None:
            mean, std = moments
            return (latents - mean) * config.scaling_factor / std
        return (latents - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def _unscale(self, latents: Tensor) -> Tensor:
        config, moments = self.pipeline.vae.config, self._moments(latents)
        if moments is not None:
            mean, std = moments
            return latents * std / config.scaling_factor + mean
        return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """(mean, deviation) of the latents' channels, (1, C, 1, 1) each, where the autoencoder tells them."""
        config = self.pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None
        return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    return vae.decode(latents, return_dict=False)[0]


def batch_of(timestep: float | Tensor, latents: Tensor) -> Tensor:
    """(B,) timesteps on the latents' device."""
    return torch.as_tensor(timestep, dtype=torch.float32, device=latents.device).expand(len(latents))
