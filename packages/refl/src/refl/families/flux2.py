"""FLUX.2 klein: a rectified-flow transformer on normalized latents of 2 x 2 patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import JOINT_LORA_TARGETS, Condition, Tensors, batch_of
from .flow_transformer import FlowTransformer, pack, unpack

MAX_TOKENS = 512  # to which diffusers pads the prompts


class Flux2Klein(FlowTransformer):
    """Pipelines of class Flux2KleinPipeline: the base models, and those distilled to few steps.

    The latents of this family are what the transformer denoises: (128, H / 16, W / 16), each channel
    normalized by the autoencoder's statistics.
    """

    lora_targets = (*JOINT_LORA_TARGETS, "to_qkv_mlp_proj")  # the first layer of single blocks

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        channels, rows, columns = super().latent_shape(height, width)
        return 4 * channels, rows // 2, columns // 2

    def shift(self, tokens: int, steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return compute_empirical_mu(tokens, steps)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        text, _ = self.pipeline.encode_prompt(list(prompts), self.device, max_sequence_length=MAX_TOKENS)
        if negative is None:
            return Condition({"text": text})
        other, _ = self.pipeline.encode_prompt([negative], self.device, max_sequence_length=MAX_TOKENS)
        return Condition({"text": text}, {"text": other.expand_as(text)})

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"text": (MAX_TOKENS, self.denoiser.config.joint_attention_dim)}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype, (_, _, rows, columns) = self.input_dtype, latents.shape
        text = condition["text"].to(dtype)
        tokens = self.denoiser(
            hidden_states=latents.flatten(2).transpose(1, 2).to(dtype),
            timestep=batch_of(timestep, latents) / 1000,
            encoder_hidden_states=text,
            txt_ids=_positions(latents.device, tokens=text.shape[1]),
            img_ids=_positions(latents.device, rows, columns),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(latents.shape)

    def encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        return super().encode_pixels(pixels, _unpatched(noise))

    def scale(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        _, _, rows, columns = latents.shape
        patches = pack(latents).transpose(1, 2).reshape(len(latents), -1, rows // 2, columns // 2)
        return (patches - mean) / std

    def unscale(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return _unpatched(latents * std + mean)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (1, 128, 1, 1) of the latents."""
        norm, epsilon = self.pipeline.vae.bn, self.pipeline.vae.config.batch_norm_eps
        mean, std = norm.running_mean, torch.sqrt(norm.running_var + epsilon)
        return mean.view(1, -1, 1, 1).to(latents), std.view(1, -1, 1, 1).to(latents)


def _unpatched(patches: Tensor) -> Tensor:
    """Return patches (B, 4 * C, h, w) as latents (B, C, 2 * h, 2 * w)."""
    _, _, rows, columns = patches.shape
    return unpack(patches.flatten(2).transpose(1, 2), 2 * rows, 2 * columns)


def _positions(device: torch.device, rows: int = 1, columns: int = 1, tokens: int = 1) -> Tensor:
    """Return positions (rows * columns * tokens, 4): image, row, column, token of the text."""
    axes = [torch.arange(size, device=device) for size in (1, rows, columns, tokens)]
    return torch.cartesian_prod(*axes)
