"""A UNet of diffusers with two levels and random weights."""

import torch
from diffusers import UNet2DConditionModel


def small_unet(device, **options):
    """Return a UNet in float32 for latents of any size; its prompts have 16 numbers per token."""
    defaults = {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 4}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        **{**defaults, **options},
    )
    return unet.to(device).eval()
