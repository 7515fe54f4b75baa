"""Images and their latents: the autoencoder of a pipeline."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..dtypes import autocast
from .decoding import Recompute, decode_in_chunks, images_per_chunk, recompute_in_backward


class LatentImages:
    """Encodes images to latents and decodes latents to images.

    Args:
        pipeline: a diffusers pipeline with a VAE.

    Attributes:
        pipeline: the pipeline.
        upcasts: whether a VAE whose config has force_upcast overflows in float16, as those of SDXL do.
            diffusers' default of that setting is true, and its other pipelines ignore it.
    """

    upcasts: ClassVar[bool] = False

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline

    @property
    def scale_factor(self) -> int:
        """Image pixels per latent along one side."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents for an image size in pixels."""
        return (
            self.pipeline.vae.config.latent_channels,
            height // self.scale_factor,
            width // self.scale_factor,
        )

    def enable_tiling(self) -> None:
        """Decode images in tiles."""
        self.pipeline.vae.enable_tiling()

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
            dtype: float32, or a half-precision dtype for autocast (see ``decoder_dtype``).

        Returns:
            Pixels (B, 3, H, W) in [0, 1], float32.
        """
        vae = self.pipeline.vae
        scaled = self.unscale(latents).to(vae.dtype)
        differentiable = torch.is_grad_enabled() and scaled.requires_grad
        recompute = recompute_in_backward if gradient_checkpointing and differentiable else None
        with autocast(latents.device, self.decoder_dtype(dtype)):
            decoded = self.run_decoder(scaled, recompute)
        pixels = decoded.float() / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    def decoder_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which images are decoded: float32 if the VAE overflows in ``dtype``."""
        overflows = self.upcasts and getattr(self.pipeline.vae.config, "force_upcast", False)
        return torch.float32 if dtype == torch.float16 and overflows else dtype

    def run_decoder(self, latents: Tensor, recompute: Recompute | None = None) -> Tensor:
        """Decode latents of the autoencoder in chunks of at most 512 x 512 pixels.

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
        return self.scale(mean.float() if std is None else mean.float() + std.float() * noise)

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

    def scale(self, latents: Tensor) -> Tensor:
        """Return latents as the denoiser takes them from latents of the autoencoder."""
        config, moments = self.pipeline.vae.config, self._moments(latents)
        if moments is not None:
            mean, std = moments
            return (latents - mean) * getattr(config, "scaling_factor", 1) / std
        return (latents - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """Return latents of the autoencoder from latents of the denoiser; inverts ``scale``."""
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


@cache  # recorded CUDA graphs read these tensors
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return values as a tensor; cached, because the copy to a GPU waits for it."""
    with torch.inference_mode(False):  # a later call may need gradients
        return torch.tensor(values, device=device, dtype=dtype)
