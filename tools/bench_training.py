"""Measure reward training in comparisons/s: the original's method and ours.

    python tools/bench_training.py [--device cpu|cuda] [--groups 4] [--groups-per-pass 4]
                                   [--precision float32|bfloat16]

The tool builds seeded weights of full size and images. Groups have 4 to 9 images, with the shares and ties
of the paper's test file. Both methods freeze 0.7 of the layers, keep float32 weights and take optimizer
steps.

- Original: pairs of all groups in random order, four per pass and sixteen per step. Each pair encodes both
  of its images and reads all 35 tokens.
- Ours: each image of a group is encoded once, its frozen vision blocks without gradient. Measured in
  float32, in --precision, and with the outputs of frozen blocks read from disk, as in later epochs with
  --cache. A pass has one group on a CPU. On a GPU it has four (merge_passes=false); 16 groups in one pass, as
  the trainer computes them by default, are measured too.

The tool also compares the rewards of the original's first pairs with those of the exact path, and trains on
a group of 9 to measure peak memory. On a CPU, times are processor time divided by the number of threads, so
other load on the machine does not count. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scoring_workload import build, synchronize
from training_workload import PAIRS, PASSES, SHARES, largest_difference, make_group, original_step, our_step

from reward_core.models.imagereward.reward_model import RewardModel
from reward_core.scoring.device import default_device
from reward_core.training import TrainingConfig, pairs_from_ranking
from reward_core.training.float32_attention import use_float32_attention
from reward_core.training.freezing import freeze
from reward_core.training.group_reader import ReadGroup
from reward_core.training.group_rewards import GroupRewards
from reward_core.training.optimizers import build_optimizers
from reward_core.training.token_cache import TokenCache

DEFAULTS = TrainingConfig()
GROUPS_OF_A_STEP = DEFAULTS.batch_size * DEFAULTS.accumulation


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


class Results:
    """Comparisons/s of each method; a method that fails does not end the others."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rates: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    def measure(
        self, method: str, count: int, work: Callable[[], object], warm_up: Callable[[], object]
    ) -> None:
        """Time ``work``, which makes ``count`` comparisons, after a warm-up that is not timed."""
        try:
            warm_up()
            self.rates[method] = count / timed(work, self.device)
        except Exception as error:
            traceback.print_exc()
            self.errors[method] = f"{type(error).__name__}: {error}"
        self.peaks[method] = peak_mb(self.device)
        rounded = {name: round(rate, 4) for name, rate in self.rates.items()}
        print("comparisons/s:", rounded, file=sys.stderr, flush=True)

    def ratio(self, method: str) -> float | None:
        """Return the rate relative to the original's method, or None if one was not measured."""
        if method not in self.rates or "original" not in self.rates:
            return None
        return round(self.rates[method] / self.rates["original"], 3)


def peak_mb(device: torch.device) -> int:
    """Return the peak memory since the last call in MiB; on a CPU, of the process so far."""
    if device.type == "cpu":
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    peak = round(torch.cuda.max_memory_allocated() / 2**20)
    torch.cuda.reset_peak_memory_stats()
    return peak


def nothing() -> None:
    """Warm nothing up: on a CPU, the first call takes as long as others."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--groups", type=int, help="default: 2 on a CPU, 64 on a GPU")
    parser.add_argument(
        "--groups-per-pass", type=int, help=f"default: 1 on a CPU, {DEFAULTS.batch_size} on a GPU"
    )
    parser.add_argument(
        "--pairs", type=int, default=PAIRS * PASSES, help="pairs timed with the original's method"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    args = parser.parse_args()
    device = torch.device(args.device)
    count = args.groups or (2 if args.device == "cpu" else 64)
    args.groups_per_pass = args.groups_per_pass or (1 if args.device == "cpu" else DEFAULTS.batch_size)

    with tempfile.TemporaryDirectory() as name:
        model = build(args.size, Path(name)).to(device)
        settings = TrainingConfig(freeze=0.7)
        freeze(model, settings)
        use_float32_attention(model)
        rewards = GroupRewards(model, settings).to(device).train()
        rng = random.Random(0)
        sizes = rng.choices(list(SHARES), list(SHARES.values()), k=count)
        groups = [make_group(i, size, model.config.image_size) for i, size in enumerate(sizes)]
        pairs = [(g, *pair) for g in groups for pair in pairs_from_ranking(g.ranks).tolist()]
        rng.shuffle(pairs)
        results = Results(device)
        difference = measure_original(results, model, pairs, args.pairs)
        measure_ours(results, rewards, groups, sizes, len(pairs), args, Path(name))
    show(results, args, sizes, len(pairs), difference)


def measure_original(results: Results, model: RewardModel, pairs: list, count: int) -> float:
    """Time the original's method; return the largest difference of its rewards from the exact path's."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-6)
    step = (pairs * count)[:count]  # every pair costs the same
    model.train()  # the original keeps dropout and stochastic depth on in frozen layers
    difference = largest_difference(model, pairs[:PAIRS])
    # The warm-up also allocates the optimizer's state.
    results.measure(
        "original",
        len(step),
        lambda: original_step(model, optimizer, step),
        lambda: original_step(model, optimizer, pairs[:1]),
    )
    return difference


def measure_ours(
    results: Results,
    rewards: GroupRewards,
    groups: list[ReadGroup],
    sizes: list[int],
    pairs: int,
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """Time this trainer's methods."""
    model, half, per_pass = rewards.model, args.precision == "bfloat16", args.groups_per_pass
    (optimizer,) = build_optimizers(model, 1e-6, kind=torch.optim.Adam)
    # The first call allocates the optimizer's state.
    our_step(rewards.train(), optimizer, groups[:1], half=False, per_pass=per_pass)

    def measure(method: str, work: Callable[[], object], first: Callable[[], object]) -> None:
        results.measure(method, pairs, work, nothing if results.device.type == "cpu" else first)

    def measure_steps(method: str, bfloat16: bool, per_pass: int) -> None:
        step = partial(our_step, rewards, optimizer, groups, bfloat16, per_pass=per_pass)
        measure(method, step, step)  # a GPU prepares each shape once

    for method, bfloat16 in (("float32", False), ("bfloat16", True))[: 1 + half]:
        measure_steps(method, bfloat16, per_pass)
    if 1 < per_pass < min(GROUPS_OF_A_STEP, len(groups)):
        measure_steps("one pass", half, GROUPS_OF_A_STEP)
    with torch.no_grad():
        shape = tuple(rewards.dummy_inputs()[0].shape[1:])
        cached = []
        cache = TokenCache(folder, "bench", sum(sizes), shape)
        for group, first in zip(groups, np.cumsum([0, *sizes]).tolist()):
            slots = tuple(range(first, first + len(group.image_indices)))
            cache.put(slots, rewards.frozen_tokens([group], None))
            cached.append((group, slots))

    def step_from_disk(cached_groups: list) -> None:
        read = [
            ReadGroup(g.number, g.prompt, g.ranks, g.image_indices, slots, None, cache.get(slots))
            for g, slots in cached_groups
        ]
        our_step(rewards, optimizer, read, half, cache, per_pass=per_pass)

    measure("cached", partial(step_from_disk, cached), partial(step_from_disk, cached))
    nine = [make_group(0, 9, model.config.image_size)]
    measure("group of 9", partial(our_step, rewards, optimizer, nine, False, per_pass=1), nothing)


def show(results: Results, args: argparse.Namespace, sizes: list[int], pairs: int, difference: float) -> None:
    """Print a table and the JSON object."""
    names = {
        "original": "each pair encodes both images, float32",
        "float32": "each image once, float32",
        "bfloat16": "each image once, bfloat16",
        "one pass": f"{GROUPS_OF_A_STEP} groups per pass, {args.precision}",
        "cached": f"outputs of frozen blocks from disk, {args.precision}",
    }
    title = f"{args.size} model, {args.device}, 0.7 frozen, groups per pass: {args.groups_per_pass}"
    table = Table("method", "comparisons/s", "times", title=title)
    for key, text in names.items():
        if key in results.rates:
            table.add_row(text, f"{results.rates[key]:.3f}", f"{results.ratio(key) or math.nan:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"{len(sizes)} groups of {sizes} images: {sum(sizes)} images, {pairs} pairs; largest difference "
        f"between the original's method and the exact path: {difference:.1e} of the standard deviation"
    )
    rates = results.rates
    result = {
        "comparisons_per_s_original": round(rates.get("original", math.nan), 4),
        "comparisons_per_s": round(rates.get(args.precision, math.nan), 4),
        "ratio": results.ratio(args.precision),
        "peak_mb": max(results.peaks.values()),
        "peaks_mb": results.peaks,
        "precision": args.precision,
        "device": torch.cuda.get_device_name() if results.device.type == "cuda" else "cpu",
        "ratio_float32": results.ratio("float32"),
        "ratio_cached": results.ratio("cached"),
        "groups_per_pass": args.groups_per_pass,
        "ratio_one_pass": results.ratio("one pass"),
        "pictures": sum(sizes),
        "pairs": pairs,
        "difference": difference,
        "errors": results.errors,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
