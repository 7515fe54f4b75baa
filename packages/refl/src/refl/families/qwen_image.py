"""Qwen-Image: a rectified-flow transformer with an autoencoder for videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .base import JOINT_LORA_TARGETS, Condition, Tensors, batch_of
from .flow_transformer import FlowTransformer, pack, unpack

MAX_TOKENS = 512  # of a prompt; diffusers cuts off the rest


class QwenImage(FlowTransformer):
    """Pipelines of class QwenImagePipeline. Its guidance keeps the norm of the positive prompt's output."""

    lora_targets = JOINT_LORA_TARGETS
    fixed_shapes = False  # diffusers copies a number of the host to the GPU in every pass

    def enable_tiling(self) -> None:
        raise ConfigError("Cannot use model.vae_tiling with Qwen-Image: not supported. Remove the setting.")

    @property
    def scale_factor(self) -> int:
        return 2 ** len(self.pipeline.vae.config.temperal_downsample)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.pipeline.vae.config.z_dim, height // self.scale_factor, width // self.scale_factor

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        positive = self._encoded(list(prompts))
        if negative is None:
            return Condition(positive)
        other = self._encoded([negative] * len(prompts))
        longest = max(positive["text"].shape[1], other["text"].shape[1])
        return Condition(_padded(positive, longest), _padded(other, longest))

    def _encoded(self, prompts: list[str]) -> Tensors:
        text, mask = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=MAX_TOKENS)
        if mask is None:  # no prompt is padded
            mask = torch.ones(text.shape[:2], device=text.device)
        return {"text": text, "mask": mask.bool()}

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"text": (MAX_TOKENS, self.denoiser.config.joint_attention_dim), "mask": (MAX_TOKENS,)}

    def predict(
        self, latents: Tensor, timestep: float | Tensor, condition: Tensors, guidance: float
    ) -> Tensor:
        dtype, (count, _, rows, columns) = self.input_dtype, latents.shape
        tokens = self.denoiser(
            hidden_states=pack(latents).to(dtype),
            timestep=batch_of(timestep, latents) / 1000,
            encoder_hidden_states=condition["text"].to(dtype),
            encoder_hidden_states_mask=condition["mask"],
            img_shapes=[[(1, rows // 2, columns // 2)]] * count,
            return_dict=False,
        )[0]
        return unpack(tokens, rows, columns)

    def guide(self, negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        guided = super().guide(negative, positive, scale)
        norms = [pack(output).norm(dim=-1, keepdim=True) for output in (positive, guided)]
        return unpack(pack(guided) * (norms[0] / norms[1]), *guided.shape[2:])

    def _vae_encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, std = super()._vae_encode(pixels.unsqueeze(2))  # one frame
        return mean.squeeze(2), None if std is None else std.squeeze(2)

    def _vae_decode(self, latents: Tensor) -> Tensor:
        # vae.decode clamps, so that saturated pixels would get no gradient, and keeps frames.
        vae = self.pipeline.vae
        return vae.decoder(vae.post_quant_conv(latents.unsqueeze(2))).squeeze(2)


def _padded(encoded: Tensors, length: int) -> Tensors:
    """Pad encoded prompts with hidden tokens to a length."""
    missing = length - encoded["text"].shape[1]
    return {
        "text": F.pad(encoded["text"], (0, 0, 0, missing)),
        "mask": F.pad(encoded["mask"], (0, missing), value=False),
    }
