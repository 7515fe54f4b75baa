"""Stable Diffusion XL: a UNet with two text encoders and size conditioning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Condition, Family, Tensors, batch_of
from .latent_images import constant


class StableDiffusionXL(Family):
    """Pipelines of class StableDiffusionXLPipeline, at any resolution."""

    samplers = ("euler", "ddim", "ddpm")
    upcasts = True

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        guided = negative is not None
        text, negative_text, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            # Without a negative prompt the base model expects zeros, which diffusers returns for None.
            negative_prompt=[negative] * len(prompts) if negative else None,
        )
        negative_condition = {"text": negative_text, "pooled": negative_pooled} if guided else None
        return Condition({"text": text, "pooled": pooled}, negative_condition)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        encoder = self.pipeline.text_encoder_2.config
        return {
            "text": (encoder.max_position_embeddings, self.denoiser.config.cross_attention_dim),
            "pooled": (encoder.projection_dim,),
        }

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype = self.input_dtype
        height, width = (side * self.scale_factor for side in latents.shape[-2:])
        # Original size, crop corner, target size: an uncropped image.
        sizes = constant((height, width, 0, 0, height, width), latents.device, dtype)[None]
        return self.denoiser(
            latents.to(dtype),
            batch_of(timestep, latents),
            encoder_hidden_states=condition["text"].to(dtype),
            added_cond_kwargs={
                "text_embeds": condition["pooled"].to(dtype),
                "time_ids": sizes.expand(len(latents), -1),
            },
            return_dict=False,
        )[0]
