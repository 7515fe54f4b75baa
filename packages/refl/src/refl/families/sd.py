"""Stable Diffusion 1.x and 2.x: a UNet and the text encoder of CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Condition, Family, Tensors, batch_of


class StableDiffusion(Family):
    """Pipelines of class StableDiffusionPipeline, with epsilon or v prediction."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        guided = negative is not None
        positive, negative_text = self.pipeline.encode_prompt(
            list(prompts), self.device, 1, guided, [negative] * len(prompts) if guided else None
        )
        return Condition({"text": positive}, {"text": negative_text} if guided else None)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        tokens = self.pipeline.text_encoder.config.max_position_embeddings
        return {"text": (tokens, self.denoiser.config.cross_attention_dim)}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype = self.input_dtype
        return self.denoiser(
            latents.to(dtype),
            batch_of(timestep, latents),
            encoder_hidden_states=condition["text"].to(dtype),
            return_dict=False,
        )[0]
