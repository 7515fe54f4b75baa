"""Lines at which the host waits for the GPU, and the kernels that take longest."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .measure import Stage

PROFILED = 3  # calls


def host_waits(stage: Stage, works: dict[str, Callable[[], object]], batches: int, found: dict) -> None:
    """Count the waits of each function per batch; write their lines to syncs.txt."""
    lines = []
    for name, work in works.items():
        work()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = Counter(
            f"{Path(warning.filename).name}:{warning.lineno}"
            for warning in caught
            if "called a synchronizing" in str(warning.message)
        )
        found[f"{name}, per batch"] = round(sum(places.values()) / batches, 2)
        lines += [f"{count / batches:6.2f} per batch  {name}: {at}" for at, count in places.most_common(12)]
    (stage.out / "syncs.txt").write_text("\n".join(lines or ["no waits"]) + "\n", encoding="utf-8")


def kernels(stage: Stage, work: Callable[[], object], name: str, found: dict[str, Any]) -> None:
    """Append the 15 kernels that take longest to kernels.txt; store the time in which any ran."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if stage.on_gpu else [])
    work()
    with profile(activities=activities) as record:
        wall = stage.seconds(lambda: [work() for _ in range(PROFILED)])
    events = record.key_averages()
    if stage.on_gpu:  # kernels and copies, without the operators that launch them
        events = [event for event in events if event.device_type == DeviceType.CUDA]
    time_of = attrgetter("self_device_time_total" if stage.on_gpu else "self_cpu_time_total")
    rows = sorted(((time_of(event), event.count, event.key) for event in events), reverse=True)
    total = sum(row[0] for row in rows) or 1
    launches = sum(row[1] for row in rows) / PROFILED
    lines = [f"[{name}] {total / PROFILED / 1e3:.2f} ms per batch of {stage.batch}, {launches:.0f} launches"]
    lines += [
        f"{took / total:6.1%} {took / PROFILED:9.0f} us {count / PROFILED:6.0f} x  {key[:80]}"
        for took, count, key in rows[:15]
    ]
    with (stage.out / "kernels.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n\n")
    found["launches"] = round(launches)
    found["busy_ms"] = round(total / PROFILED / 1e3, 3)
    found["profiled_wall_ms"] = round(1e3 * wall / PROFILED, 3)
