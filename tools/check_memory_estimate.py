"""Compare the memory estimate of `refl train --dry-run` with the measured peak of a step on a CPU.

    python tools/check_memory_estimate.py [--out runs/memory]

Pipelines of two sizes with random weights take two steps each, with a LoRA and with all weights, with and
without gradient checkpointing and guidance. A third generates images that are decoded in several chunks. The
peak of the second step is counted by torch's profiler, which sees every allocation, and added to what stays:
weights, optimizer, moving average. The gigabyte that the estimate adds for CUDA is left out. Prints a
Markdown table with the error of each estimate.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from memory_peak import peak_of
from torch import Tensor

import refl
from refl.config.rollout_plans import plan_rollout
from refl.demo.recipe import PIPELINE
from refl.memory import estimate_memory
from reward_core.runs.progress import bar

MB = 2**20
PROMPTS = ["a red circle", "a blue square", "a green star", "a big yellow triangle"] * 4
STAYS = ("weights", "rewards", "reference", "old weights", "optimizer", "moving average")
CASES = {
    "LoRA": ("model.lora_rank=8",),
    "LoRA, guidance": ("model.lora_rank=8", "rollout.guidance_scale=3.0"),
    "LoRA, model checkpointing": ("model.lora_rank=8", "model.gradient_checkpointing=true"),
    "LoRA, draft k=3": ("model.lora_rank=8", "strategy={name: draft, k: 3}"),
    "all weights": ("model.lora_rank=0",),
    "all weights, 2 microsteps": ("model.lora_rank=0", "run.accumulation=2"),
    "all weights, average": ("model.lora_rank=0", "optimizer.ema_decay=0.9"),
    "all weights, nothing recomputed": ("model.lora_rank=0", "rollout.gradient_checkpointing=false"),
}
CHUNK_CASES = {
    "LoRA, 4 chunks": ("model.lora_rank=8",),
    "LoRA, 2 chunks": ("model.lora_rank=8", "run.batch_size=2"),
    "all weights, 2 chunks": ("model.lora_rank=0", "run.batch_size=2"),
    "all weights, 2 chunks, nothing recomputed": (
        "model.lora_rank=0",
        "run.batch_size=2",
        "rollout.gradient_checkpointing=false",
    ),
}
SIZES = {  # channels of the UNet, latent size, channels of the VAE, cases
    "tiny": ((32, 64), 16, (32, 64), CASES),
    "mid": ((64, 128, 192), 32, (32, 64), CASES),
    "large images": ((32, 64), 48, (32, 32, 64, 64), CHUNK_CASES),  # 384 pixels: each image is a chunk
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for pipelines and runs (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, bar() as progress:
        out = args.out or Path(temporary)
        lines = ["| size | run | measured MB | estimate MB | error |", "|---|---|---|---|---|"]
        task = progress.add_task("steps", total=sum(len(cases) for *_, cases in SIZES.values()))
        worst = 0.0
        for size, (*_, cases) in SIZES.items():
            pipeline = make_pipeline(size, out / size)
            for number, (case, settings) in enumerate(cases.items()):
                measured, estimated = compare(pipeline, out / f"{size}-{number}", settings)
                error = estimated / measured - 1
                worst = max(worst, abs(error))
                lines.append(
                    f"| {size} | {case} | {measured / MB:.1f} | {estimated / MB:.1f} | {100 * error:+.0f}% |"
                )
                progress.advance(task)
    print("\n".join([*lines, "", f"largest error: {100 * worst:.0f}%"]))


def make_pipeline(size: str, folder: Path) -> Path:
    """Save a pipeline of Stable Diffusion's structure with random weights; return its folder."""
    channels, latent, vae_channels, _ = SIZES[size]
    torch.manual_seed(0)
    bundled = StableDiffusionPipeline.from_pretrained(PIPELINE)
    unet = UNet2DConditionModel(
        sample_size=latent,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
        cross_attention_dim=bundled.unet.config.cross_attention_dim,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        latent_channels=4,
        sample_size=latent * 2 ** (len(vae_channels) - 1),
    )
    parts = {**bundled.components, "unet": unet, "vae": vae}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def compare(pipeline: Path, out: Path, settings: tuple[str, ...]) -> tuple[float, float]:
    """Return the measured and the estimated bytes of a training step."""
    common = [
        f"model.id={pipeline}", f"run.out={out}", "run.cpu=true", "run.batch_size=4", "run.steps=2",
        "run.trackers=[]", "rollout.steps=4", "validation.prompts=0", "rewards=[{name: bright, phi: linear}]",
        "rollout.guidance_scale=1.0", "strategy={name: refl, first: 2, last: 3}",
        "rollout.gradient_graphs=no",
    ]  # fmt: skip
    config = refl.load_config(settings=[*common, *settings])
    trainer = refl.Trainer(prompts=PROMPTS, args=config, rewards={"bright": brightness})
    plan = plan_rollout(config.strategy, config.rollout.steps, random.Random(0))
    memory = estimate_memory(trainer.objective, plan)
    stays = sum(memory.parts.get(name, 0.0) for name in STAYS)
    trainer.step(0)  # creates the optimizer's state
    measured = stays + peak_of(lambda: trainer.step(1))
    return measured, memory.peak


def brightness(pixels: Tensor, prompts: list[str]) -> Tensor:
    """Return the mean brightness (N,) of images (N, 3, H, W)."""
    return pixels.mean((1, 2, 3))


if __name__ == "__main__":
    main()
