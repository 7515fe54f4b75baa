"""An AutoencoderTiny for 64 px images of shapes, with 16 x 16 x 4 latents.

The AutoencoderTiny of diffusers has neither a distribution nor a mean to subtract, so the training keeps
every channel of the latents near mean 0 and standard deviation 1. It also adds a little noise to the
latents, which makes the decoder robust to small errors of a denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from refl.demo.scenes import captioned_images
from reward_core import shapes

WIDTH, LATENT_CHANNELS = 32, 4
BATCH, LEARNING_RATE = 24, 2e-3
POOL = 12_000  # maximum number of images, drawn once
ANY = 0.15  # share of ShapesBench's other images: small, rotated, anywhere
NOISE = 0.2  # maximum standard deviation of the noise on latents
ABSOLUTE, NORMAL = 0.02, 3e-4  # loss weights of absolute error and normalization; the squared error has 1


def make_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(0, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


def image_pool(steps: int, seed: int) -> Tensor:
    """Draw images (N, 3, 64, 64) uint8, at most as many as ``steps`` batches use."""
    rng = np.random.default_rng([seed, 2])
    count = min(POOL, steps * BATCH)
    others = int(count * ANY)
    images = [pixels for pixels, _ in captioned_images(count - others, seed, pair_share=0.6)]
    images += [shapes.render_scene(shapes.sample_scene(rng), rng) for _ in range(others)]
    return to_tensor(images)


def to_tensor(images: Iterable[np.ndarray]) -> Tensor:
    """Stack uint8 images (64, 64, 3) to (N, 3, 64, 64)."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous()


def to_range(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1], channels-last (fast on CPUs)."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_autoencoder(
    vae: AutoencoderTiny,
    pool: Tensor,
    steps: int,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train ``vae`` in place and freeze it.

    Args:
        vae: the autoencoder.
        pool: (N, 3, 64, 64) uint8 images to draw batches from.
        steps: number of steps.
        seed: seed of batches and noise.
        on_step: called with the number and squared error of each step.
    """
    torch.manual_seed(seed)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = LEARNING_RATE * min(1, step / 50) * decay
        pixels = to_range(pool[torch.randint(len(pool), (BATCH,))])
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encoder(pixels)
            noise = NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(latents)
            decoded = vae.decoder(latents + noise)
        error, latents = decoded.float() - pixels, latents.float()
        squared = error.pow(2).mean()
        means, deviations = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        normal = means.pow(2).mean() + (deviations - 1).pow(2).mean()
        loss = squared + ABSOLUTE * error.abs().mean() + NORMAL * normal
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step, squared.item())
    vae.requires_grad_(False).eval()


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: Tensor, batch: int = 128) -> Tensor:
    """Encode images (N, 3, 64, 64) uint8 to latents (N, 4, 16, 16) float16."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [vae.encoder(to_range(chunk)) for chunk in images.split(batch)]
    return torch.cat(parts).half()
