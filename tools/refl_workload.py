"""Models of Stable Diffusion 1.x's size, or small ones, with seeded random weights, for bench_refl.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

import reward_core
from refl.families import Condition
from refl.families.sd import StableDiffusion
from reward_core.network.config import RewardConfig

BETAS = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
)
SIZES: dict[str, dict[str, Any]] = {
    # The sizes of Stable Diffusion 1.x: UNet 860 M parameters, autoencoder 84 M.
    "sd1": dict(
        unet=dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        vae=dict(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        pixels=512,
        steps=40,
    ),
    "small": dict(
        unet=dict(
            sample_size=32,
            cross_attention_dim=64,
            attention_head_dim=4,
            block_out_channels=(16, 32, 64, 64),
            norm_num_groups=8,
        ),
        vae=dict(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        ),
        pixels=64,
        steps=40,
    ),
}
PROMPT = "a red circle above a blue square"


class FixedText(StableDiffusion):
    """Stable Diffusion whose encoded prompts are fixed: encoding them is left out of the measurement."""

    text: torch.Tensor

    def encode(self, prompts: Sequence[str], negative: str | None = None) -> Condition:
        text = self.text.expand(len(prompts), -1, -1)
        return Condition({"text": text}, {"text": text} if negative is not None else None)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"text": tuple(self.text.shape[1:])}


def make_unet(size: str, device: torch.device, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """Return the UNet; every call gives the same weights."""
    torch.manual_seed(0)
    with device:  # random weights of a full UNet take long on a CPU
        unet = UNet2DConditionModel(**SIZES[size]["unet"])
    # diffusers' own to() warns that it may keep modules in float32; this model has none.
    return nn.Module.to(unet, dtype)


def make_frozen(size: str, device: torch.device, reward_dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return the frozen parts: vae, reward and text, the encoded prompt (1, 77, E).

    Every call gives the same weights. With a dtype, the reward's weights are stored as refl stores them for
    autocast in that dtype.
    """
    torch.manual_seed(1)
    with device:
        vae = AutoencoderKL(scaling_factor=0.18215, **SIZES[size]["vae"])
        text = torch.randn(1, 77, SIZES[size]["unet"]["cross_attention_dim"])
    if size == "small":
        reward = reward_core.load("tiny", device=device)
    else:  # ImageReward's size with random weights; the vocabulary does not matter for speed
        tokenizer = reward_core.load("tiny", device="cpu").tokenizer
        with device:
            reward = reward_core.RewardModel(RewardConfig.imagereward_v1(), tokenizer)
    if reward_dtype is not None:
        reward.convert_for_autocast(reward_dtype)
    return {
        "vae": vae.requires_grad_(False).eval(),
        "reward": reward.to(device).requires_grad_(False).eval(),
        "text": text,
    }


def make_family(
    size: str, frozen: dict[str, Any], device: torch.device, dtype: torch.dtype = torch.float32
) -> FixedText:
    """Return refl's family of a pipeline with a new UNet in a dtype and the frozen parts."""
    pipeline = StableDiffusionPipeline(
        vae=frozen["vae"],
        text_encoder=None,
        tokenizer=None,
        unet=make_unet(size, device, dtype),
        scheduler=DDPMScheduler(num_train_timesteps=1000, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    family = FixedText(pipeline)
    family.text = frozen["text"].to(dtype)
    return family
