"""Measure reward training in comparisons/s: the original's method and ours.

    python tools/bench_training.py [--device cpu|cuda] [--groups 4] [--precision float32|bfloat16]

The tool builds seeded weights of full size and images. Groups have 4 to 9 images, with the shares and ties
of the paper's test file. Both methods freeze 0.7 of the layers, keep float32 weights and take optimizer
steps.

- Original: pairs of all groups in random order, four per pass and sixteen per step. Each pair encodes both
  of its images and reads all 35 tokens.
- Ours: each image of a group is encoded once, its frozen vision blocks without gradient. Measured in
  float32, in --precision, and with the outputs of frozen blocks read from disk, as in later epochs with
  --cache.

The tool also compares the rewards of the original's first pairs with those of the exact path, and trains on
a group of 9 to measure peak memory. On a CPU, times are processor time divided by the number of threads, so
other load on the machine does not count. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from scoring_workload import PROMPTS, build, synchronize, varied_images
from torch import Tensor

from reward_core.models.imagereward.reward_model import RewardModel
from reward_core.scoring.device import default_device
from reward_core.training import TrainingConfig, pairs_from_ranking
from reward_core.training.float32_attention import use_float32_attention
from reward_core.training.freezing import freeze
from reward_core.training.group_reader import ReadGroup
from reward_core.training.group_rewards import GroupRewards
from reward_core.training.optimizers import build_optimizers
from reward_core.training.ranking_loss import loss_terms, ranking_loss_sum
from reward_core.training.token_cache import TokenCache

# Number of images -> prompts of the paper's test file with this number, and a typical ranking.
SHARES = {4: 194, 5: 2, 6: 45, 7: 159, 8: 43, 9: 23}
RANKINGS = {
    4: (1, 2, 3, 4),
    5: (1, 2, 2, 3, 4),
    6: (1, 2, 2, 3, 4, 4),
    7: (1, 1, 2, 2, 3, 3, 4),
    8: (1, 1, 2, 2, 3, 3, 4, 5),
    9: (1, 1, 2, 2, 3, 3, 4, 4, 5),
}
PAIRS, PASSES = 4, 4  # pairs per pass and passes per step, as in the original per GPU


def make_group(number: int, size: int, side: int) -> ReadGroup:
    images = np.stack([np.asarray(p) for p in varied_images(number + size, side)[number:]])
    rows = tuple(range(size))
    prompt = PROMPTS[number % len(PROMPTS)]
    return ReadGroup(number, prompt, RANKINGS[size], rows, rows, torch.from_numpy(images), None)


def pair_inputs(model: RewardModel, pairs: list[tuple[ReadGroup, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels, token ids and mask of both images of each pair."""
    images = torch.stack([group.images[i] for group, *both in pairs for i in both])
    prompts = [group.prompt for group, *_ in pairs for _ in range(2)]
    ids, mask = model.tokenizer(prompts, length=model.config.max_length)
    return model.transform.from_uint8(images), ids.to(model.device), mask.to(model.device)


def original_step(model: RewardModel, optimizer: torch.optim.Optimizer, pairs: list) -> None:
    for start in range(0, len(pairs), PAIRS):
        rewards = model(*pair_inputs(model, pairs[start : start + PAIRS])).view(-1, 2)
        first = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
        (F.cross_entropy(rewards, first) / PASSES).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def our_step(
    rewards: GroupRewards,
    optimizer: torch.optim.Optimizer,
    groups: list[ReadGroup],
    half: bool,
    cache: TokenCache | None = None,
) -> None:
    total = loss_terms([group.ranks for group in groups])
    for group in groups:
        with torch.autocast(rewards.model.device.type, torch.bfloat16, enabled=half):
            group_rewards = rewards(*rewards.inputs([group], cache))
        (ranking_loss_sum(group_rewards, [group.ranks]) / total).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call."""
    if device.type == "cpu":
        started = process_time()
        work()
        return (process_time() - started) / torch.get_num_threads()
    synchronize(device)
    started = perf_counter()
    work()
    synchronize(device)
    return perf_counter() - started


@torch.no_grad()
def largest_difference(model: RewardModel, pairs: list) -> float:
    """Return the largest difference from exact rewards, relative to their std."""
    model.eval()
    paired = model(*pair_inputs(model, pairs))
    exact = []
    for group, *both in pairs:
        images = model.transform.from_uint8(group.images[both])
        ids, mask = model.tokenizer([group.prompt])
        exact += [model(pixels[None], ids.to(model.device), mask.to(model.device)) for pixels in images]
    model.train()
    return float((paired - torch.cat(exact)).abs().max() / paired.std())


def report(rates: dict[str, float]) -> None:
    rounded = {method: round(rate, 4) for method, rate in rates.items()}
    print("comparisons/s:", rounded, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--groups", type=int, help="default: 2 on a CPU, 64 on a GPU")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS * PASSES, help="pairs timed with the original's method"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    args = parser.parse_args()
    device = torch.device(args.device)
    count = args.groups or (2 if args.device == "cpu" else 64)

    with tempfile.TemporaryDirectory() as name:
        model = build(args.size, Path(name)).to(device)
        settings = TrainingConfig(freeze=0.7)
        freeze(model, settings)
        use_float32_attention(model)
        rewards = GroupRewards(model, settings).to(device).train()
        (optimizer,) = build_optimizers(model, 1e-6, kind=torch.optim.Adam)
        rng = random.Random(0)
        sizes = rng.choices(list(SHARES), list(SHARES.values()), k=count)
        groups = [make_group(i, size, model.config.image_size) for i, size in enumerate(sizes)]
        pairs = [(g, *pair) for g in groups for pair in pairs_from_ranking(g.ranks).tolist()]
        rng.shuffle(pairs)
        step = (pairs * args.pairs)[: args.pairs]  # every pair costs the same

        model.train()  # the original keeps dropout and stochastic depth on in frozen layers
        difference = largest_difference(model, pairs[:PAIRS])
        original_step(model, optimizer, pairs[:1])  # warm-up; also allocates the optimizer's state
        rates = {"original": len(step) / timed(lambda: original_step(model, optimizer, step), device)}

        report(rates)
        rewards.train()
        warm = [] if device.type == "cpu" else groups[:1]
        if warm:
            our_step(rewards, optimizer, warm, half=False)
        rates["float32"] = len(pairs) / timed(
            lambda: our_step(rewards, optimizer, groups, half=False), device
        )
        half = args.precision == "bfloat16"
        if half:
            if warm:
                our_step(rewards, optimizer, warm, half=True)
            rates["bfloat16"] = len(pairs) / timed(
                lambda: our_step(rewards, optimizer, groups, half=True), device
            )
        report(rates)
        with torch.no_grad():
            shape = tuple(rewards.dummy_inputs()[0].shape[1:])
        cached = []
        cache = TokenCache(Path(name), "bench", sum(sizes), shape)
        for group, first in zip(groups, np.cumsum([0, *sizes]).tolist()):
            slots = tuple(range(first, first + len(group.image_indices)))
            with torch.no_grad():
                cache.put(slots, rewards.frozen_tokens([group], None))
            cached.append((group, slots))

        def step_from_disk() -> None:
            cached_groups = [
                ReadGroup(g.number, g.prompt, g.ranks, g.image_indices, slots, None, cache.get(slots))
                for g, slots in cached
            ]
            our_step(rewards, optimizer, cached_groups, half, cache)

        rates["cached"] = len(pairs) / timed(step_from_disk, device)
        report(rates)
        our_step(rewards, optimizer, [make_group(0, 9, model.config.image_size)], half=False)

    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    names = {
        "original": "each pair encodes both images, float32",
        "float32": "each image once, float32",
        "bfloat16": "each image once, bfloat16",
        "cached": f"outputs of frozen blocks from disk, {args.precision}",
    }
    table = Table("method", "comparisons/s", "times", title=f"{args.size} model, {args.device}, 0.7 frozen")
    for key, rate in rates.items():
        table.add_row(names[key], f"{rate:.3f}", f"{rate / rates['original']:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"{count} groups of {sizes} images: {sum(sizes)} images, {len(pairs)} pairs; largest difference "
        f"between the original's method and the exact path: {difference:.1e} of the standard deviation"
    )
    our_rate = rates[args.precision]
    result = {
        "comparisons_per_s_original": round(rates["original"], 4),
        "comparisons_per_s": round(our_rate, 4),
        "ratio": round(our_rate / rates["original"], 3),
        "peak_mb": round(peak),
        "precision": args.precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "ratio_float32": round(rates["float32"] / rates["original"], 3),
        "ratio_cached": round(rates["cached"] / rates["original"], 3),
        "pictures": sum(sizes),
        "pairs": len(pairs),
        "difference": difference,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
