"""An AutoencoderTiny for images of shapes: 64 x 64 pixels <-> 16 x 16 x 4 latents of about N(0, 1).

Diffusers' AutoencoderTiny has neither a distribution nor a mean to subtract, so the training keeps every
channel of the latents near mean 0 and deviation 1, and adds a little noise to them: a denoiser's small
errors must not show.
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
POOL = 12_000  # images at most, made once
ANY = 0.15  # share of ShapesBench's other images among them: small, turned, anywhere
NOISE = 0.2  # deviation of the noise on latents, at most
ABSOLUTE, NORMAL = 0.02, 3e-4  # weights in the loss, beside 1 for the squared error


def make_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(WIDTH,) * 3,
        decoder_block_out_channels=(WIDTH,) * 3,
        num_encoder_blocks=(0, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


def image_pool(steps: int, seed: int) -> Tensor:
    """(N, 3, 64, 64) uint8, no more images than `steps` batches hold."""
    rng = np.random.default_rng([seed, 2])
    count = min(POOL, steps * BATCH)
    others = int(count * ANY)
    images = [pixels for pixels, _ in captioned_images(count - others, seed, pair_share=0.6)]
    images += [shapes.render_scene(shapes.sample_scene(rng), rng) for _ in range(others)]
    return to_tensor(images)


def to_tensor(images: Iterable[np.ndarray]) -> Tensor:
    """uint8 (64, 64, 3) each -> (N, 3, 64, 64)."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous()


def to_range(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], channels last, which convolutions on a CPU are fastest with."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_autoencoder(
    vae: AutoencoderTiny,
    pool: Tensor,
    steps: int,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train `vae` in place and freeze it.

    Args:
        pool: (N, 3, 64, 64) uint8 images, from which batches are drawn.
        on_step: told the number and squared error of each step.
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
    """(N, 3, 64, 64) uint8 -> (N, 4, 16, 16) latents, float16."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [vae.encoder(to_range(some)) for some in images.split(batch)]
    return torch.cat(parts).half()
