"""Compare speed and memory of refl's training steps with the original's loop.

    python tools/bench_refl.py                    # a GPU: 512 px, 40 steps, batch 2
    python tools/bench_refl.py --size small       # a CPU: a small UNet, 64 px
    python tools/bench_refl.py --size sd1 --estimate  # the estimated memory only, also on a CPU

The original's loop is reimplemented: a float32 UNet under autocast, all weights trained, scheduler steps
without gradient followed by one with gradient, and all activations of VAE and reward kept. The others are
steps of refl's trainer with the same weights, batch size, stops and precision:

- refl: all weights trained, with the defaults.
- refl-launched: the same with rollout.gradient_graphs=no.
- refl-rewards: the same with rollout.gradient_graphs=rewards.
- refl-graphs: the same with rollout.gradient_graphs=all (more memory).
- refl-small: the same as refl without a copy for the steps without gradient (less memory).
- refl-kept: the same as refl with rollout.gradient_checkpointing=false (much more memory).
- lora: LoRA adapters of rank 16 with the defaults, and frozen weights in half precision as in a run.
- lora-rewards: the same with rollout.gradient_graphs=rewards.
- lora-launched: the same as lora without graphs.

The reward is computed under autocast in all of them. refl stores its matrices in half precision.
"Defaults" are those of refl but for that dtype, no accumulation and no moving average of the weights.

Weights are random and seeded, because speed and memory do not depend on their values; prompts are encoded
once. On a GPU the allocator counts the peak; on a CPU torch's profiler counts it in one more step. A JSON
object is printed after each variant, with all results so far; the last line is the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from memory_peak import peak_of, tensor_bytes
from refl_workload import BETAS, PROMPT, SIZES, make_family, make_frozen, make_unet

import refl
from refl.accelerator import make_accelerator
from refl.config import StrategyConfig
from refl.config.checks import check_config
from refl.config.rollout_plans import plan_rollout
from refl.data.prompts import Batches
from refl.dtypes import DTYPES
from refl.memory import estimate_memory
from refl.memory.peak import PeakMemory
from refl.objectives.gradient_objective import GradientObjective
from refl.optimizer import make_lr_schedule, make_optimizer
from refl.rewards import load_rewards
from refl.setup import frozen_dtype, make_no_grad_copy, prepare_denoiser
from refl.step import TrainingStep
from refl.trainable import Trainable
from reward_core.runs.cuda import tf32

Step = Callable[[int], tuple[float, bool]]  # stop -> (loss, whether the optimizer took the step)
Missing = Callable[[], list[str]]  # -> parts that could not be recorded as CUDA graphs, with reasons
WARM_UP_STEPS = 3  # a gradient step is recorded when it is called for the third time
FULL, LORA = "model.lora_rank=0", "model.lora_rank=16"
VARIANTS: dict[str, tuple[str, ...]] = {
    "refl": (FULL,),
    "lora": (LORA,),
    "refl-rewards": (FULL, "rollout.gradient_graphs=rewards"),
    "refl-graphs": (FULL, "rollout.gradient_graphs=all"),
    "lora-rewards": (LORA, "rollout.gradient_graphs=rewards"),
    "refl-launched": (FULL, "rollout.gradient_graphs=no"),
    "refl-small": (FULL, "rollout.no_grad_dtype=no"),
    "lora-launched": (LORA, "rollout.no_grad_graphs=false", "rollout.gradient_graphs=no"),
    "refl-kept": (FULL, "rollout.gradient_checkpointing=false"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="sd1" if torch.cuda.is_available() else "small")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each variant")
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    order = ["original", *VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=order, default=order)
    parser.add_argument(
        "--seconds", type=float, default=80, help="start no further variant after this many seconds"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="print the estimated peak memory of refl's steps in MiB"
    )
    args = parser.parse_args()
    if args.estimate:
        print_estimates(args)
        return
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "size": args.size,
        "batch_size": args.batch_size,
        "steps": SIZES[args.size]["steps"],
        "dtype": args.dtype,
        "variants": {},
    }
    for name in args.variants:
        if time.perf_counter() - started > args.seconds:
            result["variants"][name] = {"error": f"not started: {args.seconds:g} seconds are over"}
            continue
        try:
            values = measure(name, args, device)
        except Exception as error:  # the other variants are still of use
            traceback.print_exc()
            values = {"error": f"{type(error).__name__}: {error}"}
        result["variants"][name] = values
        gc.collect()
        if device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:  # a failed variant may leave the allocator in any state
                result["empty_cache"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(with_ratios(result)), flush=True)
    print(json.dumps(with_ratios(result) | {"seconds": round(time.perf_counter() - started, 1)}))


def measure(name: str, args: argparse.Namespace, device: torch.device) -> dict:
    """Return seconds per step, samples per second, peak memory and skipped steps of a variant."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if name == "original":
        step, missing = original_step(args, make_frozen(args.size, device), device)
    else:
        frozen = make_frozen(args.size, device, DTYPES[args.dtype])
        step, missing = refl_step(name, args, frozen, device)
    seconds, losses, skipped, recording_peak = [], [], 0, 0
    stops = late_steps(args.repeats + WARM_UP_STEPS, SIZES[args.size]["steps"])
    for number, stop in enumerate(stops):
        if number == WARM_UP_STEPS and device.type == "cuda":
            recording_peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        took, loss, taken = timed_step(step, stop, device)
        seconds.append(took)
        losses.append(loss)
        skipped += not taken
        print(f"{name}: step to {stop}, {seconds[number]:.3f} s, loss {loss:.6f}", flush=True)
    typical = statistics.median(seconds[WARM_UP_STEPS:])
    steps = statistics.median(stops[WARM_UP_STEPS:])
    rest = statistics.median(timed_step(step, 0, device)[0] for _ in range(args.repeats))
    return {
        "seconds_per_step": round(typical, 4),
        "ms_per_step_without_gradient": round(1e3 * (typical - rest) / steps, 2),
        "samples_per_s": round(args.batch_size / typical, 4),
        "peak_mb": round(max(recording_peak, peak_bytes(device, lambda: step(stops[-1]))) / 2**20, 1),
        "first_loss": losses[0] if math.isfinite(losses[0]) else str(losses[0]),
        "skipped": skipped,
        "not_recorded": missing() if device.type == "cuda" else [],
    }


def timed_step(step: Step, stop: int, device: torch.device) -> tuple[float, float, bool]:
    """Take a step; return its seconds, its loss and whether the optimizer took it."""
    synchronize(device)
    started = time.perf_counter()
    loss, taken = step(stop)
    synchronize(device)
    return time.perf_counter() - started, loss, taken


def late_steps(count: int, steps: int) -> list[int]:
    """Return stops spread over the last quarter, the same for all variants."""
    first = 3 * steps // 4
    return [first + (7 * i + 3) % (steps - first) for i in range(count)]


def original_step(
    args: argparse.Namespace, frozen: dict[str, Any], device: torch.device
) -> tuple[Step, Missing]:
    """Return functions that take one step of the original's loop, and report missing graphs: none."""
    unet = make_unet(args.size, device).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5)
    vae, reward = frozen["vae"], frozen["reward"]
    text = frozen["text"].expand(args.batch_size, -1, -1)
    scheduler = DDPMScheduler(num_train_timesteps=1000, **BETAS)
    half = torch.bfloat16 if args.dtype == "bf16" else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=args.dtype == "fp16")
    side = SIZES[args.size]["pixels"] // 2 ** (len(vae.config.block_out_channels) - 1)

    def step(stop: int) -> tuple[float, bool]:
        scheduler.set_timesteps(SIZES[args.size]["steps"], device=device)
        latents = torch.randn(args.batch_size, 4, side, side, device=device)
        with torch.autocast(device.type, half):
            for i, t in enumerate(scheduler.timesteps[: stop + 1]):
                with torch.set_grad_enabled(i == stop):
                    if i == stop:
                        torch.clear_autocast_cache()
                    output = unet(scheduler.scale_model_input(latents, t), t, text).sample
                    result = scheduler.step(output, t, latents)
                    latents = result.prev_sample
            pixels = (vae.decode(result.pred_original_sample / 0.18215).sample / 2 + 0.5).clamp(0, 1)
            rewards = reward.rewards_from_pixels(pixels, [PROMPT] * args.batch_size)
        loss = 1e-3 * torch.relu(2 - rewards).mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return float(loss.detach()), math.isfinite(norm)

    return step, list


def print_estimates(args: argparse.Namespace) -> None:
    """Print the estimate of ``refl train --dry-run`` for each variant, without CUDA's own memory."""
    device = torch.device("cpu")
    for name in args.variants:
        if name != "original":
            objective = make_objective(name, args, make_frozen(args.size, device, DTYPES[args.dtype]), device)
            plan = plan_rollout(objective.config.strategy, SIZES[args.size]["steps"], random.Random(0))
            memory = estimate_memory(objective, plan)
            print(json.dumps({"variant": name, "estimated_mb": round(memory.peak / 2**20)}), flush=True)


def refl_step(
    name: str, args: argparse.Namespace, frozen: dict[str, Any], device: torch.device
) -> tuple[Step, Missing]:
    """Return functions that take one step of refl's trainer, and report missing graphs."""
    objective = make_objective(name, args, frozen, device)
    config, accelerator = objective.config, objective.accelerator
    optimizer = accelerator.prepare(make_optimizer(config, objective.trainable.parameters))
    batches = Batches([PROMPT], config.run.seed, config.run.batch_size)
    take_step = TrainingStep(objective, batches, optimizer, make_lr_schedule(config, optimizer.optimizer))

    def step(stop: int) -> tuple[float, bool]:
        objective.config = replace(config, strategy=StrategyConfig("refl", first=stop, last=stop))
        with tf32(config.run.tf32):
            metrics = take_step(stop)
        return metrics.loss, metrics.finite

    return step, lambda: not_recorded(objective)


def make_objective(
    name: str, args: argparse.Namespace, frozen: dict[str, Any], device: torch.device
) -> GradientObjective:
    """Return what generates images and computes their loss, as refl's trainer makes it."""
    config = check_config(
        refl.load_config(
            preset="sd14-paper",
            settings=[
                f"rollout.height={SIZES[args.size]['pixels']}",
                f"rollout.width={SIZES[args.size]['pixels']}",
                f"rollout.steps={SIZES[args.size]['steps']}",
                f"run.batch_size={args.batch_size}",
                f"run.mixed_precision={args.dtype}",
                "run.accumulation=1",
                "run.trackers=[]",
                "optimizer.ema_decay=0",
                f"rewards=[{{name: reward, dtype: {args.dtype}}}]",
                *VARIANTS[name],
            ],
        )
    )
    accelerator = make_accelerator(config)
    family = make_family(args.size, frozen, device, frozen_dtype(config, device))
    rewards = load_rewards(config.rewards, device, {"reward": frozen["reward"].rewards_from_pixels})
    copy = make_no_grad_copy(config, family, device)
    trainable = Trainable(family, config.model)
    prepare_denoiser(config, family)
    return GradientObjective(config, family, rewards, trainable, accelerator, None, copy)


def not_recorded(objective: GradientObjective) -> list[str]:
    """Return the parts that should run as CUDA graphs and could not be recorded, with reasons."""
    copy, graphs = objective.no_grad_copy, objective.gradient_graphs
    missing = []
    if copy is not None and copy.graphs:
        shapes = [shape for function in copy.recorded.values() for shape in function.shapes.values()]
        if not shapes or any(shape.run is None for shape in shapes):
            reasons = [function.failed for function in copy.recorded.values()]
            missing.append(f"steps without gradient: {reasons}")
    if graphs is not None:
        parts = {"denoiser": graphs.denoiser, "decoder": graphs.decoder}
        recorded = ((r.config.name, getattr(r.recorded, "gradient", None)) for r in objective.rewards.trained)
        parts |= {name: gradient for name, gradient in recorded if gradient is not None}
        used = {name: part for name, part in parts.items() if part is not None}
        missing += [f"{name}: {part.failed}" for name, part in used.items() if part.recorded is None]
    return missing


def with_ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with speed and memory of each variant relative to the original's loop."""
    measured = {name: values for name, values in result["variants"].items() if "error" not in values}
    base = measured.get("original")
    if base is None:
        return result
    ratios = {
        name: {
            "ratio": round(base["seconds_per_step"] / values["seconds_per_step"], 3),
            "memory_ratio": round(values["peak_mb"] / base["peak_mb"], 3),
        }
        for name, values in measured.items()
    }
    return result | {
        "ratios": ratios,
        "ratio": ratios.get("refl", {}).get("ratio"),
        "ratio_lora": ratios.get("lora", {}).get("ratio"),
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device: torch.device, step: Callable[[], Any]) -> int:
    """Return the peak memory of tensors: of the steps so far, on a CPU of one more step.

    The memory of CUDA graphs counts as a whole, because nothing else can use it.
    """
    if device.type != "cuda":
        return tensor_bytes() + peak_of(step)
    return PeakMemory().bytes()


if __name__ == "__main__":
    main()
