"""Measure the speed of ShapesBench on one core, in processor time, and its oracle's accuracy.

python tools/bench_shapes.py
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from itertools import chain
from statistics import fmean
from time import process_time
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from reward_core import shapes

T = TypeVar("T")


def best_rate(count: int, work: Callable[[], T], rounds: int = 3) -> tuple[float, T]:
    """Return the images per second of the fastest of several rounds, and the result of ``work``."""
    seconds = []
    for _ in range(rounds):
        started = process_time()
        result = work()
        seconds.append(process_time() - started)
    return count / min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=200, help="default: %(default)s")
    args = parser.parse_args()

    generator = np.random.default_rng(0)
    scenes = [shapes.sample_scene(generator) for _ in range(2000)]
    rendered, clean = best_rate(
        len(scenes), lambda: [shapes.render_scene(scene, generator) for scene in scenes]
    )
    groups = list(shapes.make_groups(args.groups, shapes.HELD_OUT, "held_out"))
    count = sum(len(group.images) for group in groups)
    made, _ = best_rate(
        count, lambda: list(shapes.make_groups(args.groups, shapes.HELD_OUT, "held_out")), rounds=1
    )

    for group in groups[:20]:  # warm-up: draws the oracle's templates
        shapes.oracle_batch(list(group.images), [group.scene] * len(group.images))
    read_clean, truths = best_rate(len(clean), lambda: shapes.oracle_batch(clean, scenes))
    perfect = fmean(truth.alignment > 0.95 for truth in truths)
    read_all, read = best_rate(
        count,
        lambda: [
            shapes.oracle_batch(list(group.images), [group.scene] * len(group.images)) for group in groups
        ],
        rounds=1,
    )

    right = pairs = 0
    errors = []
    for group, readings in zip(groups, read, strict=True):
        errors += [abs(a.utility - b.utility) for a, b in zip(readings, group.truths, strict=True)]
        for i, rank in enumerate(group.ranking):
            for j, other in enumerate(group.ranking):
                if rank < other:
                    right, pairs = right + (readings[i].utility > readings[j].utility), pairs + 1
    kinds = {fault.kind for group in groups for fault in chain.from_iterable(group.faults)}
    figures = {
        "rendered_per_s": round(rendered),
        "group_pictures_per_s": round(made),
        "oracle_clean_per_s": round(read_clean),
        "oracle_per_s": round(read_all),
        "clean_alignment_above_0.95": perfect,
        "mean_utility_error": round(fmean(errors), 4),
        "pairs_as_in_truth": round(right / pairs, 4),
        "pairs": pairs,
        "kinds_of_fault": len(kinds),
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):28} {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
