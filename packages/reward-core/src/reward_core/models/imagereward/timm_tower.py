"""Reward models with a ViT from timm as vision encoder."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...errors import InputError
from ...network.timm_vision import create_tower
from ..checkpoint import build_model
from .reward_model import RewardModel


def with_timm_tower(model: RewardModel, name: str, pretrained: bool, image_size: int = 0) -> RewardModel:
    """Return a copy of a reward model with a ViT from timm as vision encoder.

    The cross-attention layers that read image tokens are initialized randomly if the ViT has another width.

    Args:
        model: the reward model to start from.
        name: name in timm, such as "vit_base_patch16_224.augreg_in21k".
        pretrained: download timm's weights.
        image_size: image side in pixels; 0 for the default of the ViT.

    Raises:
        InputError: timm does not have this model, it is not a plain ViT, or its images are not square.
        MissingExtraError: timm cannot be imported.
    """
    tower = create_tower(name, pretrained, image_size, model.config.vision_drop_path)
    timm_config = tower.pretrained_cfg
    width, size = tower.embed_dim, tower.patch_embed.img_size
    if size[0] != size[1]:
        raise InputError(
            f"Cannot use timm's {name!r} as vision encoder: it reads images of {size[0]}x{size[1]} pixels. "
            "Choose a model with square images."
        )
    config = replace(
        model.config,
        timm_vision=name,
        image_size=size[0],
        patch_size=tower.patch_embed.patch_size[0],
        vision_width=width,
        vision_depth=len(tower.blocks),
        vision_heads=tower.blocks[0].attn.num_heads,
        pixel_mean=tuple(timm_config["mean"]),
        pixel_std=tuple(timm_config["std"]),
        text=replace(model.config.text, encoder_width=width),
    )
    state = {key: t for key, t in model.state_dict().items() if not key.startswith("blip.visual_encoder.")}
    state |= {f"blip.visual_encoder.tower.{key}": tensor for key, tensor in tower.state_dict().items()}
    with torch.device("meta"):
        expected = RewardModel(config, model.tokenizer).state_dict()
    for key, tensor in expected.items():
        if key in state and state[key].shape != tensor.shape:  # keys, values and the projection
            bias = key.endswith(".bias")
            state[key] = torch.zeros(tensor.shape) if bias else torch.randn(tensor.shape) * width**-0.5
    tokenizer = model.tokenizer
    return build_model(RewardModel, config, state, name, lambda: tokenizer)
