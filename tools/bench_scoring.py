"""How fast pictures are scored, beside what the hardware could do, and whether fast agrees with exact.

    python tools/bench_scoring.py [--device cpu|cuda] [--size full|tiny] [--from tensors|files]

Builds seeded weights and pictures itself. In one run: the rate of matrix products (the limit), one
picture at a time in float32 with all 35 tokens (the original's way), exact in batches, fast in batches.
The weights are scaled so that rewards differ by picture and by prompt. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import reward_core as RM
from reward_core.config import RewardConfig
from reward_core.load import default_device
from reward_core.precision import apply_precision, encoder_dtype
from reward_core.tokenizer import SPECIAL_TOKENS, PromptTokenizer
from reward_core.training import initialise_from_scratch

PROMPTS = (
    "a red house by the ocean",
    "portrait of an old dog, oil on canvas",
    "night city, neon, rain, high quality photo",
    "an astronaut riding a horse through a field of tall flowers",
)
WORDS = sorted({word for prompt in PROMPTS for word in prompt.replace(",", " ,").split()})
# Products as they occur in the model: a batch of 8 pictures' tokens times an MLP's weights; and a square one.
PRODUCTS = ((1576, 1024, 4096), (4096, 4096, 4096))


def build(size: str, folder: Path) -> RM.RewardModel:
    if size == "tiny":
        return RM.load("tiny", device="cpu")
    config = RewardConfig.imagereward_v1()
    words = [*SPECIAL_TOKENS, *WORDS]
    words += [f"[unused{i}]" for i in range(config.vocab_lines - len(words))]
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n", encoding="utf-8")
    model = RM.RewardModel(config, PromptTokenizer.from_vocab(vocab))
    initialise_from_scratch(model, 0)
    return model.eval().requires_grad_(False)


def varied_pictures(count: int, side: int) -> list[Image.Image]:
    """Gradients, blobs, stripes and noise of all colours."""
    generator = np.random.default_rng(0)
    pictures = []
    for i in range(count):
        cells = int(generator.integers(1, 2 + i % 12))
        coarse = generator.integers(0, 256, (cells, cells + 1, 3), dtype=np.uint8)
        filter_ = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)[i % 2]
        pixels = np.asarray(Image.fromarray(coarse).resize((side, side), filter_), float)
        pixels = pixels + generator.normal(0, 8 * (i % 5), pixels.shape)
        pictures.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return pictures


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        synchronise(device)
        started = perf_counter()
        work()
        synchronise(device)
        times.append(perf_counter() - started)
    return median(times)


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The better of the two products."""
    rates = []
    for rows, inner, columns in PRODUCTS:
        a = torch.randn(rows, inner, device=device, dtype=dtype)
        b = torch.randn(columns, inner, device=device, dtype=dtype)
        took = seconds(lambda: torch.nn.functional.linear(a, b), device, 5)  # noqa: B023 - used at once
        rates.append(2 * rows * inner * columns / took / 1e12)
    return max(rates)


def gflop(config: RewardConfig, tokens: int) -> float:
    """Multiplications and additions of one picture with one prompt of so many tokens, in 10^9."""
    n, d, h = config.vision.tokens, config.vision.width, int(config.vision.width * config.vision.mlp_ratio)
    vision = config.vision.depth * (n * (4 * d * d + 2 * d * h) + 2 * n * n * d)
    vision += (n - 1) * 3 * config.patch_size**2 * d
    t, e, m = tokens, config.text.hidden_size, config.text.intermediate_size
    each = t * (4 * e * e + 2 * e * e + 2 * e * m) + 2 * t * t * e + 2 * t * n * e + 2 * n * d * e
    return 2 * (vision + config.text.num_hidden_layers * each) / 1e9


def kendall_tau(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two flat tensors, over all pairs."""
    signs = torch.sign(a[:, None] - a[None]) * torch.sign(b[:, None] - b[None])
    return float(signs.sum() / (len(a) * (len(a) - 1)))


@torch.no_grad()
def one_at_a_time(model: RM.RewardModel, pictures: Sequence, prompts: Sequence[str]) -> None:
    """The original's way: each picture by itself, each prompt padded to 35 tokens."""
    for picture, prompt in zip(pictures, prompts, strict=True):
        pixels = picture if torch.is_tensor(picture) else model.transform.from_pil(Image.open(picture))
        token_ids, mask = model.tokenizer([prompt], length=model.config.max_length)
        model(pixels[None].to(model.device), token_ids.to(model.device), mask.to(model.device)).item()


@torch.no_grad()
def batched(model: RM.RewardModel, pictures: Sequence, prompts: Sequence[str], size: int) -> torch.Tensor:
    if not torch.is_tensor(pictures[0]):
        return model.score_pairs(prompts, pictures, batch_size=size)
    rewards = []
    for start in range(0, len(pictures), size):
        token_ids, mask = model.tokenizer(prompts[start : start + size])
        longest = int(mask.sum(1).max())
        own = token_ids[:, :longest].to(model.device), mask[:, :longest].to(model.device)
        rewards.append(model(torch.stack(list(pictures[start : start + size])), *own))
    return torch.cat(rewards).float().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--from", dest="source", choices=["tensors", "files"], default="tensors")
    parser.add_argument("--pictures", type=int, default=64, help="for agreement (default: %(default)s)")
    parser.add_argument("--timed", type=int, help="for timing (default: 16 on a CPU, 512 on a GPU)")
    parser.add_argument("--batch-size", type=int, help="default: 8 on a CPU, 64 on a GPU")
    args = parser.parse_args()
    device = torch.device(args.device)
    timed = args.timed or (16 if args.device == "cpu" else 512)
    size = args.batch_size or (8 if args.device == "cpu" else 64)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build(args.size, folder).to(device)
        images = varied_pictures(args.pictures, 2 * model.config.image_size)
        grid = model.score_matrix(PROMPTS, images, batch_size=size)
        # So that rewards are about N(0, 1), as the published model's are.
        mean = model.config.reward_mean + model.config.reward_std * grid.mean().item()
        std = model.config.reward_std * grid.std().item()
        model.config = replace(model.config, reward_mean=mean, reward_std=std)
        exact_grid = model.score_matrix(PROMPTS, images, batch_size=size)
        by_picture, by_prompt = exact_grid.std(1).mean().item(), exact_grid.std(0).mean().item()

        chosen = [images[i % len(images)] for i in range(timed)]
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(timed)]
        if args.source == "files":
            pictures: list = []
            for i, image in enumerate(chosen):
                image.save(folder / f"{i}.jpg", quality=95)
                pictures.append(str(folder / f"{i}.jpg"))
        else:
            pictures = list(torch.stack([model.transform.from_pil(i) for i in chosen]).to(device))
        alone = pictures[: min(timed, 8 if args.device == "cpu" else 64)]
        repeats = 3
        slow = seconds(lambda: one_at_a_time(model, alone, prompts[: len(alone)]), device, repeats)
        exact = seconds(lambda: batched(model, pictures, prompts, size), device, repeats)
        rates = {"one at a time, float32": len(alone) / slow, "exact, in batches": timed / exact}
        reuse = {}
        for count in (1, 10, 100):
            some = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
            few = images[: 4 if args.device == "cpu" else 64]
            took = seconds(lambda: model.score_matrix(some, few, batch_size=size), device, 1)  # noqa: B023
            reuse[count] = len(few) * count / took
        dtype = encoder_dtype("fast", device)
        apply_precision(model, dtype)
        if args.source == "tensors":
            pictures = [picture.to(dtype) for picture in pictures]
        fast = seconds(lambda: batched(model, pictures, prompts, size), device, repeats)
        rates["fast, in batches"] = timed / fast
        fast_grid = model.score_matrix(PROMPTS, images, batch_size=size)

    limit = matmul_tflops(device, dtype)
    tokens = int(model.tokenizer(prompts)[1].sum(1).max())
    work = gflop(model.config, tokens)
    speed = rates["fast, in batches"]
    fraction = speed * work / 1e3 / limit
    table = Table(
        "path", "images/s", "times", title=f"{args.size} model, {args.device}, {args.source}, {dtype}"
    )
    first = rates["one at a time, float32"]
    for path, rate in rates.items():
        table.add_row(path, f"{rate:.2f}", f"{rate / first:.2f}")
    table.add_row("limit", f"{limit * 1e3 / work:.2f}", f"{limit:.2f} TFLOP/s, {work:.1f} GFLOP a picture")
    for count, rate in reuse.items():
        table.add_row(f"exact, {count} prompts a picture: pairs/s", f"{rate:.2f}", "")
    Console().print(table)
    result = {
        "device": args.device,
        "images_per_s_one_at_a_time": round(first, 3),
        "images_per_s_batched": round(rates["exact, in batches"], 3),
        "images_per_s_fast": round(speed, 3),
        "speedup": round(speed / first, 3),
        "matmul_tflops": round(limit, 3),
        "fraction_of_limit": round(fraction, 3),
        "max_diff": round((fast_grid - exact_grid).abs().max().item(), 5),
        "tau": round(kendall_tau(exact_grid.flatten(), fast_grid.flatten()), 5),
        "reward_std": round(exact_grid.std().item(), 3),
        "reward_std_by_picture": round(by_picture, 3),
        "reward_std_by_prompt": round(by_prompt, 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
