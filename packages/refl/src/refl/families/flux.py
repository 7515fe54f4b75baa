"""FLUX.1: a rectified-flow transformer with guidance as an input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..noise_schedule import NoiseSchedule, make_schedule
from .base import JOINT_LORA_TARGETS, Condition, Family, Tensors, batch_of

T5_TOKENS = 512  # to which diffusers pads the prompts of T5


class Flux(Family):
    """Pipelines of class FluxPipeline: dev (guidance-distilled) and schnell."""

    part = "transformer"
    samplers = ("flow",)
    lora_targets = JOINT_LORA_TARGETS
    scale_is_input = True

    @property
    def size_multiple(self) -> int:
        return self.scale_factor * 2

    @property
    def default_size(self) -> int:
        return self.pipeline.default_sample_size * self.scale_factor

    def distillation(self, name: str) -> str:
        if not self.denoiser.config.guidance_embeds:
            return "it was distilled to few steps (FLUX.1 without guidance_embeds is schnell)"
        return super().distillation(name)

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipeline.scheduler.config
        _, rows, columns = self.latent_shape(height, width)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift = calculate_shift(rows * columns // 4, *(config.get(name) for name in names))
        options = {"mu": shift} if config.get("use_dynamic_shifting") else {}
        sigmas = np.linspace(1.0, 1 / steps, steps)
        return make_schedule(
            self.pipeline.scheduler, steps, sampler or self.samplers[0], sigmas=sigmas, **options
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        text, pooled, _ = self.pipeline.encode_prompt(list(prompts), None, device=self.device)
        return Condition({"text": text, "pooled": pooled})

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.denoiser.config
        return {"text": (T5_TOKENS, config.joint_attention_dim), "pooled": (config.pooled_projection_dim,)}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype, (count, channels, rows, columns) = self.denoiser.dtype, latents.shape
        packed = (
            latents.view(count, channels, rows // 2, 2, columns // 2, 2)
            .permute(0, 2, 4, 1, 3, 5)  # tokens of 2 x 2 latents
            .reshape(count, rows * columns // 4, channels * 4)
        )
        positions = torch.zeros(rows // 2, columns // 2, 3, device=latents.device, dtype=dtype)
        positions[..., 1] += torch.arange(rows // 2, device=latents.device)[:, None]
        positions[..., 2] += torch.arange(columns // 2, device=latents.device)[None, :]
        distilled = self.denoiser.config.guidance_embeds
        output = self.denoiser(
            hidden_states=packed.to(dtype),
            timestep=batch_of(timestep, latents).to(dtype) / 1000,
            guidance=batch_of(guidance, latents) if distilled else None,
            pooled_projections=condition["pooled"].to(dtype),
            encoder_hidden_states=condition["text"].to(dtype),
            txt_ids=torch.zeros(condition["text"].shape[1], 3, device=latents.device, dtype=dtype),
            img_ids=positions.view(-1, 3),
            return_dict=False,
        )[0]
        return (
            output.view(count, rows // 2, columns // 2, channels, 2, 2)
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(count, channels, rows, columns)
        )
