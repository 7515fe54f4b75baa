"""Measure how much of LoRA's effect the copy of `rollout.no_grad_dtype` keeps, in one pass of the denoiser.

    python tools/check_no_grad_copy.py                # the bundled tiny pipeline
    python tools/check_no_grad_copy.py --model wide   # a UNet as wide as SD 1.5, with random weights

Adapters are trained for up to 100 steps of AdamW at a learning rate of 1e-4. The true effect is the change of
the output that they cause in float32, with the frozen weights that the half-precision model has. For the copy
and for the trained denoiser under autocast, a line per number of steps has:

- slope: slope of the regression of the measured change on the true one: 1 if all survives, 0 if it is lost.
- noise: the rest of the measured change, relative to the rounding error of autocast.
- error: the difference to the output in float32, relative to the same.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from refl_workload import BETAS, FixedText, make_frozen
from torch import Tensor

from refl.config import ModelConfig
from refl.demo.recipe import PIPELINE
from refl.dtypes import DTYPES, autocast
from refl.families import Condition, Family, Guidance, load_family
from refl.fast_steps.no_grad_copy import NoGradCopy
from refl.trainable import Trainable

CPU = torch.device("cpu")
STEPS = (1, 3, 10, 30, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["tiny", "wide"], default="tiny")
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, help="latents of the measured pass (default: 64, wide: 4)")
    args = parser.parse_args()
    batch = args.batch_size or (4 if args.model == "wide" else 64)
    for row in measure(args.model, args.dtype, args.rank, args.lr, batch):
        print(json.dumps(row), flush=True)


def measure(model: str, dtype: str, rank: int, lr: float, batch: int) -> Iterator[dict[str, float]]:
    """Yield a dict per number of steps with slope and noise of the copy and of autocast."""
    torch.manual_seed(0)
    half = DTYPES[dtype]
    family = wide_family(half) if model == "wide" else load_family(PIPELINE, dtype=half)
    no_grad_copy = NoGradCopy(family, dtype, CPU)
    trainable = Trainable(family, ModelConfig(lora_rank=rank))
    exact = copy.copy(family)
    exact.pipeline = copy.copy(family.pipeline)
    exact.denoiser = copy.deepcopy(family.denoiser).float()
    prompts = ["a red circle above a blue square", "two green stars", "a yellow ring", "a blue heart"] * batch
    condition = family.encode(prompts[:batch])
    levels = torch.linspace(100, 900, batch)
    latents = torch.randn(batch, *sample_shape(family))
    direction = torch.randn(1, *latents.shape[1:])

    def run(which: Family | NoGradCopy, precision: torch.dtype) -> Tensor:
        with torch.no_grad(), autocast(CPU, precision):
            return which.denoise(latents, levels, condition, Guidance()).double()

    def outputs() -> dict[str, Tensor]:
        no_grad_copy.refresh()
        for target, parameter in zip(lora_of(exact), trainable.parameters, strict=True):
            target.data.copy_(parameter.data)
        return {
            "exact": run(exact, torch.float32),
            "autocast": run(family, half),
            "copy": run(no_grad_copy, torch.float32),
        }

    base = outputs()
    optimizer = torch.optim.AdamW(trainable.parameters, lr=lr)
    for number in range(1, max(STEPS) + 1):
        x, t = torch.randn(2, *latents.shape[1:]), torch.rand(2) * 999
        two = Condition({name: value[:2] for name, value in condition.positive.items()})
        with autocast(CPU, half):
            output = family.denoise(x, t, two, Guidance())
        (output * direction).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if number in STEPS:
            yield {"steps": number, **compare(base, outputs())}


def compare(base: dict[str, Tensor], now: dict[str, Tensor]) -> dict[str, float]:
    """Return slope and noise of each way, and the true effect relative to the rounding error."""
    true = now["exact"] - base["exact"]
    rounding = (now["autocast"] - now["exact"]).pow(2).mean().sqrt()
    result = {"effect": true.pow(2).mean().sqrt() / rounding}
    for name in ("copy", "autocast"):
        change = now[name] - base[name]
        slope = (change * true).sum() / true.pow(2).sum()
        result[f"{name} slope"] = slope
        result[f"{name} noise"] = (change - slope * true).pow(2).mean().sqrt() / rounding
        result[f"{name} error"] = (now[name] - now["exact"]).pow(2).mean().sqrt() / rounding
    return {name: round(float(value), 3) for name, value in result.items()}


def lora_of(family: Family) -> list[Tensor]:
    return [parameter for name, parameter in family.denoiser.named_parameters() if "lora_" in name]


def sample_shape(family: Family) -> tuple[int, int, int]:
    size = int(family.denoiser.config.sample_size)
    return (int(family.denoiser.config.in_channels), size, size)


def wide_family(dtype: torch.dtype) -> Family:
    """Return a family with a UNet of Stable Diffusion 1.5's widths, three levels and one layer per level."""
    unet = UNet2DConditionModel(
        sample_size=16,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipeline = StableDiffusionPipeline(
        vae=make_frozen("small", CPU)["vae"],
        text_encoder=None,
        tokenizer=None,
        unet=unet.to(dtype),
        scheduler=DDPMScheduler(num_train_timesteps=1000, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    family = FixedText(pipeline)
    family.text = torch.randn(1, 77, 768)
    return family


if __name__ == "__main__":
    main()
