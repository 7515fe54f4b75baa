"""FLUX.1: a rectified-flow transformer with guidance as an input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import JOINT_LORA_TARGETS, Condition, Tensors, batch_of
from .flow_transformer import FlowTransformer, pack, unpack

T5_TOKENS = 512  # to which diffusers pads the prompts of T5


class Flux(FlowTransformer):
    """Pipelines of class FluxPipeline: dev (guidance-distilled) and schnell."""

    lora_targets = JOINT_LORA_TARGETS
    scale_is_input = True

    def distillation(self, name: str) -> str:
        if not self.denoiser.config.guidance_embeds:
            return "it was distilled to few steps (FLUX.1 without guidance_embeds is schnell)"
        return super().distillation(name)

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
        dtype, (_, _, rows, columns) = self.input_dtype, latents.shape
        positions = torch.zeros(rows // 2, columns // 2, 3, device=latents.device, dtype=dtype)
        positions[..., 1] += torch.arange(rows // 2, device=latents.device)[:, None]
        positions[..., 2] += torch.arange(columns // 2, device=latents.device)[None, :]
        distilled = self.denoiser.config.guidance_embeds
        output = self.denoiser(
            hidden_states=pack(latents).to(dtype),
            timestep=batch_of(timestep, latents).to(dtype) / 1000,
            guidance=batch_of(guidance, latents) if distilled else None,
            pooled_projections=condition["pooled"].to(dtype),
            encoder_hidden_states=condition["text"].to(dtype),
            txt_ids=torch.zeros(condition["text"].shape[1], 3, device=latents.device, dtype=dtype),
            img_ids=positions.view(-1, 3),
            return_dict=False,
        )[0]
        return unpack(output, rows, columns)
