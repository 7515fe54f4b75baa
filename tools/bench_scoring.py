"""Measure scoring speed beside baselines, and the agreement of each precision with exact scores.

    python tools/bench_scoring.py [--device cpu|cuda] [--size full|tiny] [--from tensors|files]

The tool builds seeded weights and images. The baselines are batch size 1 in float32 with all 35 tokens and
torch's linear layers (like the original), and the same network under autocast in 16 bits, in the same
batches but from ready pixels, with its weights as they are and with weights that were converted before.
Four tables follow: 16 and 8 bits in batches with one prompt an image, float32 beside them, one image with
one prompt, several prompts an image. All paths of a table alternate in rounds. Ratios are taken within a
round, and the table shows their median and quartiles, because the speed of a shared machine varies; the best
round shows an undisturbed machine. The first table has `--rounds` rounds, the others fewer. The weights are
scaled so that rewards differ by image and by prompt. The last line is a JSON object.

`--agreement` measures the agreement only. Limits are the images per second if the encoders' matrix products
were all the work, at the best rates of their shapes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import torch
from matrix_rates import Products
from paired_rounds import best_seconds, run_rounds
from rich.console import Console
from scoring_baselines import resident
from scoring_paths import SEVERAL_PROMPTS, Models, Workload
from scoring_profile import profile_table
from scoring_report import Measured, agreement_report
from scoring_workload import gflop

from reward_core.scoring.device import default_device

LIMIT_ROUNDS = 12  # of the matrix products


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
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, images and prompts")
    parser.add_argument("--timed", type=int, help="images to time (default: 16 on a CPU, 1024 on a GPU)")
    parser.add_argument("--rounds", type=int, default=24, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="use one thread and measure its processor time, for a shared machine",
    )
    parser.add_argument("--batch-size", type=int, help="default: 8 on a CPU, 64 on a GPU")
    parser.add_argument("--no-compile", action="store_true", help="measure the uncompiled fast path")
    parser.add_argument("--no-reuse", action="store_true", help="skip several prompts per image")
    parser.add_argument("--agreement", action="store_true", help="measure the agreement only")
    parser.add_argument("--profile", action="store_true", help="print a profile of the fast path")
    return parser.parse_args()


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
        if args.agreement:
            print(json.dumps(agreement_report(models.grids)))
            return
        workload = Workload(models, args, timed, Path(name))
        batches = run_rounds(workload.batches(), device, args.rounds, clock)
        fewer = max(1, args.rounds // 4)
        slower = run_rounds(workload.slower(), device, fewer, clock)
        single = run_rounds(workload.single_image(), device, 2 * fewer, clock)
        several = {
            count: run_rounds(workload.several_prompts(count), device, fewer, clock)
            for count in (() if args.no_reuse else SEVERAL_PROMPTS)
        }
        tokens = int(models.exact.tokenizer(models.prompts)[1].sum(1).max())
        products = Products(models.exact.config, size, tokens, device)
        limits = products.limits(best_seconds(products.works(), device, LIMIT_ROUNDS, clock))
        if args.profile:
            levels, prompts = workload.levels[:size], workload.prompts[:size]
            fast = models.faster["fast"]
            print(profile_table(lambda: resident(fast, levels, prompts, size), device))
    measured = Measured(
        args=args,
        device=torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        batch_size=size,
        batches=batches,
        slower=slower,
        single=single,
        several=several,
        limits=limits,
        gflop_per_image=gflop(models.exact.config, tokens),
        grids=models.grids,
        compiled=models.compiled,
    )
    for table in measured.tables():
        Console().print(table)
    if models.compiled:
        print(f"compiling took {models.compiling:.0f} s")
    print(json.dumps(measured.to_dict()))


if __name__ == "__main__":
    main()
