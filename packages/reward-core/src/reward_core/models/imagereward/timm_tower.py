"""A reward model whose vision encoder is a ViT of timm."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...errors import InputError
from ...network.timm_vision import create_tower
from ..checkpoint import build_model
from .reward_model import RewardModel


def with_timm_tower(model: RewardModel, name: str, pretrained: bool, image_size: int = 0) -> RewardModel:
    """Return a reward model with a ViT of timm as the vision encoder and the text encoder of ``model``.

    The cross-attention layers that read image tokens are initialized if the ViT has another width.

    Args:
        model: the reward model to start from.
        name: timm's, such as "vit_base_patch16_224.augreg_in21k".
        pretrained: download timm's weights.
        image_size: side in pixels; 0 is the ViT's own.

    Raises:
        InputError: timm has no such model, it is not a plain ViT, or its images are not square.
        MissingExtraError: timm cannot be imported.
    """
    tower = create_tower(name, pretrained, image_size, model.config.vision_drop_path)
    facts = tower.pretrained_cfg
    width, size = tower.embed_dim, tower.patch_embed.img_size
    if size[0] != size[1]:
        raise InputError(f"timm's {name!r} reads images of {size} pixels; square ones are needed")
    config = replace(
        model.config,
        timm_vision=name,
        image_size=size[0],
        patch_size=tower.patch_embed.patch_size[0],
        vision_width=width,
        vision_depth=len(tower.blocks),
        vision_heads=tower.blocks[0].attn.num_heads,
        pixel_mean=tuple(facts["mean"]),
        pixel_std=tuple(facts["std"]),
        text=replace(model.config.text, encoder_width=width),
    )
    own = {key: t for key, t in model.state_dict().items() if not key.startswith("blip.visual_encoder.")}
    own |= {f"blip.visual_encoder.tower.{key}": tensor for key, tensor in tower.state_dict().items()}
    with torch.device("meta"):
        wanted = RewardModel(config, model.tokenizer).state_dict()
    for key, tensor in wanted.items():
        if key in own and own[key].shape != tensor.shape:  # keys, values and the projection
            bias = key.endswith(".bias")
            own[key] = torch.zeros(tensor.shape) if bias else torch.randn(tensor.shape) * width**-0.5
    tokenizer = model.tokenizer
    return build_model(RewardModel, config, own, name, lambda: tokenizer)
