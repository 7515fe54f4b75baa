"""Stable Diffusion 3: a rectified-flow transformer, three text encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import JOINT_LORA_TARGETS, Condition, Tensors, batch_of
from .flow_transformer import FlowTransformer

T5_TOKENS = 256  # to which diffusers pads the prompts of T5


class StableDiffusion3(FlowTransformer):
    """Pipelines of class StableDiffusion3Pipeline."""

    lora_targets = JOINT_LORA_TARGETS
    spaces_levels = False

    @property
    def size_multiple(self) -> int:
        return self.scale_factor * self.denoiser.config.patch_size

    @property
    def default_size(self) -> int:
        return int(self.denoiser.config.sample_size) * self.scale_factor

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
        dtype = self.input_dtype
        return self.denoiser(
            hidden_states=latents.to(dtype),
            timestep=batch_of(timestep, latents),
            encoder_hidden_states=condition["text"].to(dtype),
            pooled_projections=condition["pooled"].to(dtype),
            return_dict=False,
        )[0]
