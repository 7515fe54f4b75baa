"""Ways to score without this project's batching, kernels and precisions, as baselines of the benchmarks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

import reward_core as RM
from reward_core.network.onednn_linear import OneDNNLinear


def without_onednn(model: RM.RewardModel) -> RM.RewardModel:
    """Return a copy with shared weights that uses torch's linear layers."""
    model = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in model.modules():
        if type(module) is OneDNNLinear:
            module.__class__ = nn.Linear
    return model


def for_autocast(model: RM.RewardModel, dtype: torch.dtype) -> RM.RewardModel:
    """Return a copy for use inside ``torch.autocast``, with torch's linear layers.

    The encoders' matrices are converted once, because autocast would convert frozen weights in every call.
    That does not change the rewards.
    """
    plain = without_onednn(copy.deepcopy(model))
    for module in plain.blip.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)
    return plain


def in_16_bits(model: RM.RewardModel, dtype: torch.dtype) -> RM.RewardModel:
    """Return a copy for use inside ``torch.autocast`` whose encoders also add and normalize in 16 bits."""
    plain = without_onednn(copy.deepcopy(model))
    plain.blip.to(dtype)
    return plain


@torch.no_grad()
def at_batch_size_1(model: RM.RewardModel, images: Sequence, prompts: Sequence[str]) -> None:
    """Score each image (pixels, image or file) separately, each prompt padded to 35 tokens."""
    for image, prompt in zip(images, prompts, strict=True):
        pixels = image if torch.is_tensor(image) else model.transform.from_pil(opened(image))
        token_ids, mask = model.tokenizer([prompt], length=model.config.max_length)
        model(pixels[None].to(model.device), token_ids.to(model.device), mask.to(model.device)).item()


def opened(image: Image.Image | str) -> Image.Image:
    """Return an image, or open its file."""
    return image if isinstance(image, Image.Image) else Image.open(image)


@torch.no_grad()
def plain_batches(model: RM.RewardModel, pixels: Tensor, prompts: Sequence[str], size: int) -> Tensor:
    """Return the rewards (N,) of normalized pixels (N, 3, S, S), from calls of the model in batches."""
    token_ids, mask = (x.to(pixels.device) for x in model.tokenizer(prompts))
    batches = [slice(start, start + size) for start in range(0, len(pixels), size)]
    return torch.cat([model(pixels[batch], token_ids[batch], mask[batch]) for batch in batches])


@torch.no_grad()
def resident(model: RM.RewardModel, levels: Tensor, prompts: Sequence[str], size: int) -> Tensor:
    """Score levels (N, S, S, 3) uint8 that are on the device already."""
    path, rewards = model.path(), []
    path.refresh()
    token_ids, mask = model.tokenizer(prompts)
    with path.transfers.active():
        for start in range(0, len(levels), size):
            batch = slice(start, start + size)
            rewards.append(path.pair_rewards(path.encode(levels[batch]), token_ids[batch], mask[batch]))
    return torch.cat(rewards).float().cpu()
