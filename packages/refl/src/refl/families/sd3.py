"""Stable Diffusion 3: a rectified-flow transformer, three text encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..noise_schedule import NoiseSchedule, make_schedule
from .base import JOINT_LORA_TARGETS, Condition, Family, Tensors, batch_of

T5_TOKENS = 256  # to which diffusers pads the prompts of T5


class StableDiffusion3(Family):
    """Pipelines of class StableDiffusion3Pipeline."""

    part = "transformer"
    samplers = ("flow",)
    lora_targets = JOINT_LORA_TARGETS

    @property
    def size_multiple(self) -> int:
        return self.scale_factor * self.denoiser.config.patch_size

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, options = self.pipeline.scheduler, {}
        if scheduler.config.get("use_dynamic_shifting"):  # larger images get more steps at high noise
            _, rows, columns = self.latent_shape(height, width)
            tokens = rows * columns // self.denoiser.config.patch_size**2
            names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
            options["mu"] = calculate_shift(tokens, *(scheduler.config.get(name) for name in names))
        return make_schedule(scheduler, steps, sampler or self.samplers[0], **options)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        guided = negative is not None
        text, negative_text, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=[negative] * len(prompts) if guided else None,
        )
        negative_condition = {"text": negative_text, "pooled": negative_pooled} if guided else None
        return Condition({"text": text, "pooled": pooled}, negative_condition)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        tokens = self.pipeline.text_encoder.config.max_position_embeddings + T5_TOKENS
        config = self.denoiser.config
        return {"text": (tokens, config.joint_attention_dim), "pooled": (config.pooled_projection_dim,)}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype = self.denoiser.dtype
        return self.denoiser(
            hidden_states=latents.to(dtype),
            timestep=batch_of(timestep, latents),
            encoder_hidden_states=condition["text"].to(dtype),
            pooled_projections=condition["pooled"].to(dtype),
            return_dict=False,
        )[0]
