"""Measure scoring speed, and the agreement of fast with exact scores.

    python tools/bench_scoring.py [--device cpu|cuda] [--size full|tiny] [--from tensors|files]

The tool builds seeded weights and images. It measures the rate of matrix multiplications (the limit); batch
size 1 in float32 with all 35 tokens and torch's linear layers (like the original); exact in batches (also
with torch's linear layers, if ours use oneDNN); fast in batches, compiled and not; the agreement; and several
prompts per image. Measurements alternate and the best time of each counts, so that other load on the machine
affects all of them alike. The weights are scaled so that rewards differ by image and by prompt. The last line
is a JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scoring_profile import profile_table
from scoring_workload import (
    PROMPTS,
    build,
    gflop,
    kendall_tau,
    spread_to_one,
    varied_images,
    without_onednn,
)

import reward_core as RM
from reward_core.network.onednn_linear import onednn_is_faster
from reward_core.scoring.device import default_device
from reward_core.scoring.precision import encoder_dtype

# Matrix shapes: the tokens of 8 images times the weights of an MLP, as in the model; and a square one.
LINEAR_SHAPES = ((1576, 1024, 4096), (4096, 4096, 4096))


def seconds(work: Callable[[], object], device: torch.device, clock: Callable = perf_counter) -> float:
    """Return the seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def run_alternately(works: dict, device: torch.device, rounds: int, clock: Callable) -> dict:
    """Return the best time of each over some rounds; the first round is the warm-up."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work, device, clock))
    return best


def linear_layers(device: torch.device, dtype: torch.dtype) -> dict[tuple[int, int, int], Callable]:
    """Return a function per shape that multiplies matrices several times."""
    multiply = {}
    for rows, inner, columns in LINEAR_SHAPES:
        a = torch.randn(rows, inner, device=device, dtype=dtype)
        b = torch.randn(columns, inner, device=device, dtype=dtype)
        times = 20 if device.type == "cuda" else 3
        multiply[rows, inner, columns] = lambda a=a, b=b, times=times: [
            torch.nn.functional.linear(a, b) for _ in range(times)
        ]
    return multiply


def tflops(shape: tuple[int, int, int], took: float, device: torch.device) -> float:
    rows, inner, columns = shape
    return 2 * rows * inner * columns * (20 if device.type == "cuda" else 3) / took / 1e12


@torch.no_grad()
def at_batch_size_1(model: RM.RewardModel, images: Sequence, prompts: Sequence[str]) -> None:
    """Score each image separately, each prompt padded to 35 tokens."""
    for image, prompt in zip(images, prompts, strict=True):
        pixels = image if torch.is_tensor(image) else model.transform.from_pil(Image.open(image))
        token_ids, mask = model.tokenizer([prompt], length=model.config.max_length)
        model(pixels[None].to(model.device), token_ids.to(model.device), mask.to(model.device)).item()


@torch.no_grad()
def resident(model: RM.RewardModel, levels: torch.Tensor, prompts: Sequence[str], size: int) -> torch.Tensor:
    """Score levels (N, S, S, 3) uint8 that are on the device already."""
    path, rewards = model.path(), []
    path.refresh()
    token_ids, mask = model.tokenizer(prompts)
    with path.transfers.active():
        for start in range(0, len(levels), size):
            batch = slice(start, start + size)
            rewards.append(path.pair_rewards(path.encode(levels[batch]), token_ids[batch], mask[batch]))
    return torch.cat(rewards).float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--from", dest="source", choices=["tensors", "files"], default="tensors")
    parser.add_argument(
        "--pictures", type=int, default=64, help="images to measure agreement (default: %(default)s)"
    )
    parser.add_argument("--timed", type=int, help="images to time (default: 16 on a CPU, 1024 on a GPU)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, 2 or more (default: %(default)s)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="use one thread and measure its processor time, for a shared machine",
    )
    parser.add_argument("--batch-size", type=int, help="default: 8 on a CPU, 64 on a GPU")
    parser.add_argument("--no-compile", action="store_true", help="measure the uncompiled fast path")
    parser.add_argument("--no-reuse", action="store_true", help="skip several prompts per image")
    parser.add_argument("--profile", action="store_true", help="print a profile of the fast path")
    args = parser.parse_args()
    device = torch.device(args.device)
    timed = args.timed or (16 if args.device == "cpu" else 1024)
    size = args.batch_size or (8 if args.device == "cpu" else 64)
    dtype = encoder_dtype("fast", device)
    clock = process_time if args.processor_time else perf_counter
    if args.processor_time:
        torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = build(args.size, folder).to(device)
        images = varied_images(args.pictures, 2 * exact.config.image_size)
        exact_grid = spread_to_one(exact, exact.score_matrix(PROMPTS, images, batch_size=size))
        fast = copy.deepcopy(exact)
        fast.set_encoder_dtype(dtype)
        fast.fast = True
        eager = copy.copy(fast)  # shares the weights, but is never compiled
        eager._path = None

        original = without_onednn(exact)

        compiled = False
        if not args.no_compile:
            started = perf_counter()
            compiled = fast.warm_up(size)
            compiling = perf_counter() - started
        fast_grid = fast.score_matrix(PROMPTS, images, batch_size=size)

        timed_images = [images[i % len(images)] for i in range(timed)]
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(timed)]
        levels = torch.stack([exact.transform.prepare(image) for image in timed_images]).to(device)
        files = []
        for i, image in enumerate(timed_images):
            files.append(str(folder / f"{i}.jpg"))
            image.save(files[-1], quality=95)
        timed_single = min(timed, 2 if args.device == "cpu" else 64)
        single: list = files
        if args.source == "tensors":
            single = [exact.transform.from_pil(image) for image in timed_images[:timed_single]]
        works: dict = dict(linear_layers(device, dtype))
        works["batch size 1, float32"] = lambda: at_batch_size_1(
            original, single[:timed_single], prompts[:timed_single]
        )

        def batched(model: RM.RewardModel, source: str) -> Callable:
            if source == "files":
                return lambda: model.score_pairs(prompts, files, batch_size=size)
            return lambda: resident(model, levels, prompts, size)

        if onednn_is_faster():
            works["exact, in batches, torch's linear layers"] = batched(original, args.source)
        works["exact, in batches"] = batched(exact, args.source)
        works["fast, uncompiled"] = batched(eager, args.source)
        works["fast"] = batched(fast, args.source)
        if args.source == "files":
            works["fast, from tensors"] = batched(fast, "tensors")
        best = run_alternately(works, device, args.rounds, clock)
        reuse = {}
        for count in () if args.no_reuse else (1, 10, 100):
            prompts_used = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
            few = images[: 2 * size]
            rewards = partial(fast.score_matrix, prompts_used, few, batch_size=size)
            rewards()
            reuse[count] = len(few) / seconds(rewards, device, clock)
        if args.profile:
            print(profile_table(lambda: resident(eager, levels[:size], prompts[:size], size), device))

    limit = max(tflops(shape, took, device) for shape, took in best.items() if isinstance(shape, tuple))
    rates = {name: timed / took for name, took in best.items() if isinstance(name, str)}
    rates["batch size 1, float32"] *= timed_single / timed
    work = gflop(exact.config, int(exact.tokenizer(prompts)[1].sum(1).max()))
    first, speed = rates["batch size 1, float32"], rates["fast"]
    title = f"{args.size} model, {args.device}, {args.source}, {dtype}, batches of {size}"
    table = Table("path", "images/s", "times", title=title)
    for path, rate in rates.items():
        table.add_row(path, f"{rate:.2f}", f"{rate / first:.2f}")
    table.add_row("limit", f"{limit * 1e3 / work:.2f}", f"{limit:.2f} TFLOP/s, {work:.1f} GFLOP per image")
    for count, rate in reuse.items():
        table.add_row(f"fast, {count} prompts per image", f"{rate:.2f}", f"{rate * count:.1f} rewards/s")
    if compiled:
        table.add_row("compiling took", "", f"{compiling:.0f} s")
    Console().print(table)
    result = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "images_per_s_one_at_a_time": round(first, 3),
        "images_per_s_batched": round(rates["exact, in batches"], 3),
        "images_per_s_fast": round(speed, 3),
        "speedup": round(speed / first, 3),
        "matmul_tflops": round(limit, 3),
        "fraction_of_limit": round(speed * work / 1e3 / limit, 3),
        "max_diff": round((fast_grid - exact_grid).abs().max().item(), 5),
        "tau": round(kendall_tau(exact_grid.flatten(), fast_grid.flatten()), 5),
        "reward_std": round(exact_grid.std().item(), 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "reward_std_by_picture": round(exact_grid.std(1).mean().item(), 3),
        "reward_std_by_prompt": round(exact_grid.std(0).mean().item(), 3),
        "mean_diff": round((fast_grid - exact_grid).mean().item(), 5),
        "compiled": compiled,
        "images_per_s_fast_uncompiled": round(rates["fast, uncompiled"], 3),
        "images_per_s_by_prompts": {count: round(rate, 3) for count, rate in reuse.items()},
    }
    if args.source == "files":
        result["fraction_of_resident"] = round(speed / rates["fast, from tensors"], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
