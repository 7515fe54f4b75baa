"""Seeded weights, images, prompts and FLOP counts for the benchmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import reward_core as RM
from reward_core.inputs.tokenizer import SPECIAL_TOKENS, PromptTokenizer
from reward_core.network.config import RewardConfig
from reward_core.network.onednn_linear import use_onednn
from reward_core.training import initialize_from_scratch

PROMPTS = (
    "a red house by the ocean",
    "portrait of an old dog, oil on canvas",
    "night city, neon, rain, high quality photo",
    "an astronaut riding a horse through a field of tall flowers",
)
WORDS = sorted({word for prompt in PROMPTS for word in prompt.replace(",", " ,").split()})


def build(size: str, folder: Path, seed: int = 0) -> RM.RewardModel:
    """Build a seeded model of ImageReward's size, or load the tiny one."""
    if size == "tiny":
        return RM.load("tiny", device="cpu")
    config = RewardConfig.imagereward_v1()
    words = [*SPECIAL_TOKENS, *WORDS]
    words += [f"[unused{i}]" for i in range(config.vocab_lines - len(words))]
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n", encoding="utf-8")
    model = RM.RewardModel(config, PromptTokenizer.from_vocab(vocab))
    initialize_from_scratch(model, seed)
    for layer in model.blip.text_encoder.encoder.layer:
        # Without this, rewards vary three times as much by image as by prompt.
        layer.crossattention.output.dense.weight.data.mul_(0.7)
    use_onednn(model)
    return model.eval().requires_grad_(False)


def varied_images(count: int, side: int, seed: int = 0) -> list[Image.Image]:
    """Draw gradients, blobs, stripes and noise in all colors."""
    generator = np.random.default_rng(seed)
    images = []
    for i in range(count):
        cells = int(generator.integers(1, 2 + i % 12))
        coarse = generator.integers(0, 256, (cells, cells + 1, 3), dtype=np.uint8)
        filter_ = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)[i % 2]
        pixels = np.asarray(Image.fromarray(coarse).resize((side, side), filter_), float)
        pixels = pixels + generator.normal(0, 8 * (i % 5), pixels.shape)
        images.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return images


def spread_to_one(model: RM.RewardModel, grid: torch.Tensor) -> torch.Tensor:
    """Scale the model's rewards to mean 0, std 1; return ``grid`` scaled alike."""
    config = model.config
    mean = config.reward_mean + config.reward_std * grid.mean().item()
    std = config.reward_std * grid.std().item()
    model.config = replace(config, reward_mean=mean, reward_std=std)
    return (grid - grid.mean()) / grid.std()


def gflop(config: RewardConfig, tokens: int) -> float:
    """Return the GFLOP of one image and one prompt of ``tokens`` tokens."""
    n, d, h = config.vision.tokens, config.vision.width, int(config.vision.width * config.vision.mlp_ratio)
    vision = config.vision.depth * (n * (4 * d * d + 2 * d * h) + 2 * n * n * d)
    vision += (n - 1) * 3 * config.patch_size**2 * d
    t, e, m = tokens, config.text.hidden_size, config.text.intermediate_size
    each = t * (4 * e * e + 2 * e * e + 2 * e * m) + 2 * t * t * e + 2 * t * n * e + 2 * n * d * e
    return 2 * (vision + config.text.num_hidden_layers * each) / 1e9


def synchronize(device: torch.device) -> None:
    """Wait for pending GPU work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
