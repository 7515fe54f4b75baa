"""Z-Image: a rectified-flow transformer with image and text in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Condition, Tensors, batch_of
from .flow_transformer import FlowTransformer

MAX_TOKENS = 512  # of a prompt; diffusers cuts off the rest


class ZImage(FlowTransformer):
    """Pipelines of class ZImagePipeline: the base model and Turbo (distilled to few steps).

    ``guidance_scale`` is that of classifier-free guidance, as for the other families. diffusers' pipeline
    counts from 0, so its ``guidance_scale`` of 4 is a scale of 5.
    """

    fixed_shapes = False  # each prompt has its own number of tokens

    @property
    def default_size(self) -> int:
        return 1024

    def clear_caches(self) -> None:
        self.denoiser.rope_embedder.freqs_cis = None

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        guided = negative is not None
        texts, negative_texts = self.pipeline.encode_prompt(
            list(prompts),
            self.device,
            guided,
            [negative] * len(prompts) if guided else None,
            max_sequence_length=MAX_TOKENS,
        )
        longest = max(map(len, [*texts, *negative_texts]))
        return Condition(_padded(texts, longest), _padded(negative_texts, longest) if guided else None)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"text": (MAX_TOKENS, self.denoiser.config.cap_feat_dim), "tokens": ()}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype, text, tokens = self.input_dtype, condition["text"], condition["tokens"]
        lengths = [text.shape[1]] * len(text) if tokens.is_meta else tokens.tolist()
        outputs: Any = self.denoiser(
            [image.unsqueeze(1) for image in latents.to(dtype)],  # (C, 1, h, w), one frame
            1 - batch_of(timestep, latents) / 1000,
            [prompt[:length] for prompt, length in zip(text.to(dtype), lengths)],
            return_dict=False,
        )[0]
        return -torch.stack([output.squeeze(1) for output in outputs])  # the model predicts x0 - noise


def _padded(texts: Sequence[Tensor], length: int) -> Tensors:
    """Return encoded prompts as one tensor (B, length, E), and their numbers of tokens (B,) on the CPU."""
    padded = [F.pad(text, (0, 0, 0, length - len(text))) for text in texts]
    return {"text": torch.stack(padded), "tokens": torch.tensor([len(text) for text in texts])}
