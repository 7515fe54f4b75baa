"""Measure how many JPEG files a second Pillow decodes, by threads and by processes.

    python -m gpu_check.decoding SECONDS SIDE ...

Each measurement takes SECONDS. It imports neither torch nor the project, so that its processes start fast.
The last line is a JSON object.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from time import perf_counter

import numpy as np
from PIL import Image


def detailed_image(side: int, seed: int) -> Image.Image:
    """Draw an image with about as much detail as a photo, so that it takes as long to decode."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 6, (side, side, 3))
    for cells in (4, 16, 64):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float) / 3
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def jpeg_bytes(side: int, seed: int) -> bytes:
    data = io.BytesIO()
    detailed_image(side, seed).save(data, "JPEG", quality=92)
    return data.getvalue()


def decode(data: bytes) -> int:
    return np.asarray(Image.open(io.BytesIO(data))).shape[0]


def decode_and_resize(data: bytes) -> int:
    resized = Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(resized).shape[0]


def decode_many(files: list[bytes], seconds: float) -> int:
    """Decode for some seconds; return the number of files."""
    count, end = 0, perf_counter() + seconds
    while perf_counter() < end:
        decode(files[count % len(files)])
        count += 1
    return count


def rate(
    pool: Executor, work: Callable[[bytes], int], files: list[bytes], workers: int, seconds: float
) -> float:
    """Return files a second through a pool that has started, measured over half of ``seconds`` or more."""
    count = 4 * workers
    while True:
        many = [files[i % len(files)] for i in range(count)]
        started = perf_counter()
        list(pool.map(work, many))
        took = perf_counter() - started
        if took > seconds / 2 or count > 100_000:
            return count / took
        count = int(count * min(16.0, max(2.0, seconds / took)))


def main() -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, float] = {"cpus": cpus}
    seconds = float(sys.argv[1])
    for side in map(int, sys.argv[2:]):
        files = [jpeg_bytes(side, seed) for seed in range(4)]
        found[f"{side}: bytes"] = round(sum(map(len, files)) / len(files))
        found[f"{side}: 1 thread"] = round(decode_many(files, seconds / 2) / (seconds / 2), 1)
        with ThreadPoolExecutor(cpus) as pool:
            found[f"{side}: {cpus} threads"] = round(rate(pool, decode, files, cpus, seconds), 1)
            resized = rate(pool, decode_and_resize, files, cpus, seconds)
            found[f"{side}: {cpus} threads, resized"] = round(resized, 1)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cpus, mp_context=context) as processes:
            list(processes.map(decode_many, [files] * cpus, [0.01] * cpus))  # start them
            started = perf_counter()
            counts = list(processes.map(decode_many, [files] * cpus, [seconds] * cpus))
            found[f"{side}: {cpus} processes"] = round(sum(counts) / (perf_counter() - started), 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
