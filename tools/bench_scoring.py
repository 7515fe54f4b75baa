"""Measure scoring speed beside baselines, and the agreement of each precision with exact scores.

    python tools/bench_scoring.py [--device cpu|cuda] [--size full|tiny] [--from tensors|files]

The tool builds seeded weights and images. It measures batch size 1 in float32 with all 35 tokens and torch's
linear layers (like the original); plain PyTorch in batches under autocast in 16 bits; exact in batches (also
with torch's linear layers, if ours use oneDNN); fast in batches, compiled and not; int8, where it is
supported; and several prompts per image. Limits are the images per second if the encoders' matrix products
were all the work, in 16 bits and in int8. Measurements alternate and the best time of each counts, so that
other load on the machine affects all of them alike. The weights are scaled so that rewards differ by image
and by prompt. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import torch
from matrix_rates import Products
from rich.console import Console
from scoring_baselines import at_batch_size_1, for_autocast, resident, without_onednn
from scoring_profile import profile_table
from scoring_report import AUTOCAST, EXACT, FROM_TENSORS, ONE, Measured
from scoring_workload import PROMPTS, build, gflop, spread_to_one, varied_images

import reward_core as RM
from reward_core.errors import InputError
from reward_core.network.onednn_linear import onednn_is_faster
from reward_core.scoring.device import default_device
from reward_core.scoring.precision import PRECISIONS, encoder_dtype


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


def parse_args() -> argparse.Namespace:
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
    return parser.parse_args()


class Models:
    """The exact model and its faster precisions, and the rewards (P, N) of each by name."""

    def __init__(self, args: argparse.Namespace, folder: Path, device: torch.device, size: int) -> None:
        self.exact = build(args.size, folder).to(device)
        self.images = varied_images(args.pictures, 2 * self.exact.config.image_size)
        self.size = size
        exact_grid = spread_to_one(self.exact, self.grid(self.exact))
        self.original = without_onednn(self.exact)
        dtype = encoder_dtype("fast", device) if device.type == "cuda" else torch.bfloat16
        self.autocast = partial(torch.autocast, device.type, dtype)
        self.plain = for_autocast(self.exact, dtype)
        with self.autocast():
            self.grids = {"exact": exact_grid, "autocast": self.grid(self.plain)}
        saved = folder / "model"
        self.exact.save_pretrained(saved)
        self.faster: dict[str, RM.RewardModel] = {}
        self.compiled, self.compiling = False, 0.0
        for name in PRECISIONS:
            if name in ("exact", "auto"):
                continue
            try:
                model = RM.load(saved, device, precision=name)
            except InputError as error:
                print(f"{name}: not supported on this machine ({error})")
                continue
            self.faster[name] = model
            if not args.no_compile:
                started = perf_counter()
                compiled = model.warm_up(size)
                if name == "fast":
                    self.compiled, self.compiling = compiled, perf_counter() - started
            self.grids[name] = self.grid(model)
        self.eager = copy.copy(self.faster["fast"])  # shares the weights, but is never compiled
        self.eager._path = None

    def grid(self, model: RM.RewardModel) -> torch.Tensor:
        return model.score_matrix(PROMPTS, self.images, batch_size=self.size)


class Workload:
    """The images, prompts and files that are timed.

    Args:
        models: the models.
        args: the command line.
        timed: number of images.
        folder: folder for files.
    """

    def __init__(self, models: Models, args: argparse.Namespace, timed: int, folder: Path) -> None:
        self.models, self.source = models, args.source
        exact = models.exact
        images = [models.images[i % len(models.images)] for i in range(timed)]
        self.prompts = [PROMPTS[i % len(PROMPTS)] for i in range(timed)]
        self.levels = torch.stack([exact.transform.prepare(image) for image in images]).to(exact.device)
        self.files = [str(folder / f"{i}.jpg") for i in range(timed)]
        for image, file in zip(images, self.files):
            image.save(file, quality=95)
        self.single = min(timed, 2 if args.device == "cpu" else 64)
        self.first: list = self.files[: self.single]
        if args.source == "tensors":
            self.first = [exact.transform.from_pil(image) for image in images[: self.single]]

    def scored(self, model: RM.RewardModel, source: str) -> Callable[[], object]:
        size = self.models.size
        if source == "files":
            return lambda: model.score_pairs(self.prompts, self.files, batch_size=size)
        return lambda: resident(model, self.levels, self.prompts, size)

    def works(self) -> dict[str, Callable[[], object]]:
        """Return what is measured, by name."""
        models = self.models
        works: dict[str, Callable] = {
            ONE: partial(at_batch_size_1, models.original, self.first, self.prompts[: self.single])
        }

        def under_autocast(score: Callable) -> object:
            with models.autocast():
                return score()

        works[AUTOCAST] = partial(under_autocast, self.scored(models.plain, self.source))
        if onednn_is_faster():
            works["exact, in batches, torch's linear layers"] = self.scored(models.original, self.source)
        works[EXACT] = self.scored(models.exact, self.source)
        works["fast, uncompiled"] = self.scored(models.eager, self.source)
        works |= {name: self.scored(model, self.source) for name, model in models.faster.items()}
        if self.source == "files":
            works[AUTOCAST + FROM_TENSORS] = partial(under_autocast, self.scored(models.plain, "tensors"))
            works[EXACT + FROM_TENSORS] = self.scored(models.exact, "tensors")
            for name, model in models.faster.items():
                works[name + FROM_TENSORS] = self.scored(model, "tensors")
        return works


def main() -> None:
    args = parse_args()
    device = torch.device(args.device)
    timed = args.timed or (16 if args.device == "cpu" else 1024)
    size = args.batch_size or (8 if args.device == "cpu" else 64)
    clock = process_time if args.processor_time else perf_counter
    if args.processor_time:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        models = Models(args, Path(name), device, size)
        workload = Workload(models, args, timed, Path(name))
        tokens = int(models.exact.tokenizer(PROMPTS)[1].sum(1).max())
        products = Products(models.exact.config, size, tokens, device)
        best = run_alternately(products.works() | workload.works(), device, args.rounds, clock)
        fast = models.faster["fast"]
        reuse = {}
        for count in () if args.no_reuse else (1, 10, 100):
            prompts_used = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
            few = models.images[: 2 * size]
            rewards = partial(fast.score_matrix, prompts_used, few, batch_size=size)
            rewards()
            reuse[count] = len(few) / seconds(rewards, device, clock)
        if args.profile:
            levels, prompts = workload.levels[:size], workload.prompts[:size]
            print(profile_table(lambda: resident(models.eager, levels, prompts, size), device))

    rates = {name: timed / took for name, took in best.items() if isinstance(name, str)}
    rates[ONE] *= workload.single / timed
    measured = Measured(
        args=args,
        device=torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        batch_size=size,
        images_per_s=rates,
        limits=products.limits(best),
        images_per_s_by_prompts=reuse,
        gflop_per_image=gflop(models.exact.config, tokens),
        grids=models.grids,
        compiled=models.compiled,
    )
    Console().print(measured.table())
    if models.compiled:
        print(f"compiling took {models.compiling:.0f} s")
    print(json.dumps(measured.to_dict()))


if __name__ == "__main__":
    main()
