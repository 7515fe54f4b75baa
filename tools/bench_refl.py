"""Compare speed and memory of our rollout with the original's loop.

    python tools/bench_refl.py                    # a GPU: 512 px, 40 steps, batch 2
    python tools/bench_refl.py --size small       # a CPU: a small UNet, 64 px

The original's loop is reimplemented: a float32 UNet under autocast, all weights trained, scheduler steps
without gradient followed by one with gradient, and all activations of VAE and reward kept. Ours trains the
same weights with the same settings (random step, batch size, precision) through the trainer's rollout.
``--lora`` also measures ours with LoRA adapters. Weights are random and seeded, because speed and memory do
not depend on their values. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
import statistics
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reward_core
from refl.noise_schedule import make_schedule
from refl.rollout import rollout
from refl.strategies import RolloutPlan
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sd1" if torch.cuda.is_available() else "small")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each kind")
    parser.add_argument("--lora", action="store_true", help="also measure LoRA adapters of rank 16")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "size": args.size,
        "batch_size": args.batch_size,
        "steps": SIZES[args.size]["steps"],
        "dtype": str(half).removeprefix("torch."),
    }
    kinds = ["original", "ours", *(["lora"] if args.lora else [])]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, float] = {}
    parts = make_parts(args.size, device)
    for kind in kinds:  # one after the other, so that peaks of memory do not mix
        step = STEPS[kind](parts, args.size, args.batch_size, half)
        plan = late_steps(args.repeats + 1, SIZES[args.size]["steps"])
        reset_peak(device)
        for number, stop in enumerate(plan):
            started = time.perf_counter()
            loss = step(stop)
            synchronize(device)
            if number:  # the first step is a warm-up
                seconds[kind].append(time.perf_counter() - started)
            print(
                f"{kind}: step to {stop}, {time.perf_counter() - started:.2f} s, loss {loss:.6f}", flush=True
            )
        peaks[kind] = peak_mb(device)
        del step
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    rate = {kind: args.batch_size / statistics.median(times) for kind, times in seconds.items()}
    result |= {
        "samples_per_s_original": round(rate["original"], 4),
        "samples_per_s": round(rate["ours"], 4),
        "ratio": round(rate["ours"] / rate["original"], 3),
        "peak_mb_original": round(peaks["original"]),
        "peak_mb": round(peaks["ours"]),
        "memory_ratio": round(peaks["ours"] / peaks["original"], 3),
    }
    if args.lora:
        result |= {"samples_per_s_lora": round(rate["lora"], 4), "peak_mb_lora": round(peaks["lora"])}
    if device.type == "cpu":
        result["peak_is"] = "peak of the process so far, which never shrinks from one kind to the next"
    print(json.dumps(result))


def late_steps(count: int, steps: int) -> list[int]:
    """Return steps spread over the last quarter, the same for all kinds."""
    first = 3 * steps // 4
    return [first + (7 * i + 3) % (steps - first) for i in range(count)]


def make_parts(size: str, device: torch.device) -> dict[str, Any]:
    sizes = SIZES[size]
    torch.manual_seed(0)
    if size == "small":
        reward = reward_core.load("tiny", device=device)
    else:  # ImageReward's size with random weights; the vocabulary does not matter for speed
        tokenizer = reward_core.load("tiny", device="cpu").tokenizer
        reward = reward_core.RewardModel(RewardConfig.imagereward_v1(), tokenizer).to(device)
    return {
        "unet": UNet2DConditionModel(**sizes["unet"]).to(device),
        "vae": AutoencoderKL(scaling_factor=0.18215, **sizes["vae"]).to(device).requires_grad_(False).eval(),
        "reward": reward.requires_grad_(False).eval(),
        "text": torch.randn(1, 77, sizes["unet"]["cross_attention_dim"], device=device),
        "prompt": "a red circle above a blue square",
        "device": device,
    }


def latents_of(parts: dict[str, Any], size: str, batch: int) -> Tensor:
    factor = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    side = SIZES[size]["pixels"] // factor
    return torch.randn(batch, 4, side, side, device=parts["device"])


def original_step(parts: dict[str, Any], size: str, batch: int, half: torch.dtype):
    """Return a function that takes one step of the original's loop."""
    unet = copy.deepcopy(parts["unet"]).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5)
    vae, reward, device = parts["vae"], parts["reward"], parts["device"]
    text = parts["text"].expand(batch, -1, -1)
    scheduler = DDPMScheduler(num_train_timesteps=1000, **BETAS)

    def step(stop: int) -> float:
        scheduler.set_timesteps(SIZES[size]["steps"], device=device)
        latents = latents_of(parts, size, batch)
        with torch.autocast(device.type, half):
            for i, t in enumerate(scheduler.timesteps[: stop + 1]):
                with torch.set_grad_enabled(i == stop):
                    output = unet(scheduler.scale_model_input(latents, t), t, text).sample
                    result = scheduler.step(output, t, latents)
                    latents = result.prev_sample
            pixels = (vae.decode(result.pred_original_sample / 0.18215).sample / 2 + 0.5).clamp(0, 1)
            rewards = reward.rewards_from_pixels(pixels, [parts["prompt"]] * batch)
        loss = 1e-3 * torch.relu(2 - rewards).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def our_step(parts: dict[str, Any], size: str, batch: int, half: torch.dtype, lora: bool = False):
    """Return a function that takes one step with the trainer's rollout."""
    unet: nn.Module = copy.deepcopy(parts["unet"])
    if lora:
        from peft import LoraConfig

        unet.requires_grad_(False).to(half)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    vae, reward, device = parts["vae"], parts["reward"], parts["device"]
    text = parts["text"].expand(batch, -1, -1).to(half if lora else torch.float32)
    schedule = make_schedule(DDPMScheduler(num_train_timesteps=1000, **BETAS), SIZES[size]["steps"], "ddpm")

    def denoise(x: Tensor, i: int) -> Tensor:
        t = torch.full((batch,), schedule.timesteps[i], device=device)
        return unet(x.to(half if lora else x.dtype), t, text).sample.float()

    def decode(x: Tensor) -> Tensor:
        return vae.decode(x / 0.18215).sample

    def step(stop: int) -> float:
        latents = latents_of(parts, size, batch)
        with torch.autocast(device.type, half):
            result = rollout(
                denoise, schedule, RolloutPlan(stop, (stop,)), latents, lambda: torch.randn_like(latents)
            )
        pixels = checkpoint(decode, result.latents, use_reentrant=False).float() / 2 + 0.5
        rewards = reward.rewards_from_pixels(pixels, [parts["prompt"]] * batch)
        loss = 1e-3 * torch.relu(2 - rewards).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


STEPS = {
    "original": original_step,
    "ours": our_step,
    "lora": lambda *arguments: our_step(*arguments, lora=True),
}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
