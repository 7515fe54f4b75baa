"""Profile of scoring by kind of operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# (parts of an operation's name, kind); the first match counts.
KINDS = (
    (("addmm", "gemm", "nvjet", "cutlass", "aten::mm", "aten::bmm", "linear"), "matrix multiplications"),
    (("attention", "flash", "fmha"), "attention"),
    (("gelu",), "GELU"),
    (("layer_norm",), "norms"),
    (("copy_", "_to_copy", "Memcpy", "cat"), "copies, conversions"),
    (("convolution", "conv"), "patches"),
    (("aten::add", "elementwise"), "sums"),
)


def profile_table(work: Callable[[], object], device: torch.device) -> str:
    """Return a Markdown table of the share of each kind in the time of a call."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    work()
    with profile(activities=activities) as record:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in record.key_averages():
        self_time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        kind = next((kind for names, kind in KINDS if any(name in event.key for name in names)), "other")
        times[kind] = times.get(kind, 0.0) + self_time
    total = sum(times.values())
    rows = sorted(times.items(), key=lambda item: -item[1])
    lines = [f"| {kind} | {100 * self_time / total:.1f}% |" for kind, self_time in rows if self_time]
    return "\n".join(["| kind | share of time |", "|---|---|", *lines])
