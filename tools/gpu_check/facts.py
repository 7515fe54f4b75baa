"""Facts of the machine: versions, rates of matrix multiplications, bandwidths, decoding."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .measure import Stage

LIBRARIES = ("torchvision", "transformers", "diffusers", "accelerate", "peft", "timm", "triton", "Pillow")
MODULES = {"Pillow": "PIL"}  # of libraries whose module has another name
PRECISIONS = {
    "bf16": (torch.bfloat16, "highest"),
    "fp16": (torch.float16, "highest"),
    "tf32": (torch.float32, "high"),
    "fp32": (torch.float32, "highest"),
}


def main() -> None:
    stage = Stage.from_command_line()
    with stage.finding("versions") as found:
        versions(stage, found)
    with stage.finding("matmul, TFLOP/s") as found:
        matmul_rates(stage, found)
    with stage.finding("matmul of the model's shapes in bf16, TFLOP/s") as found:
        rows = stage.batch * 197
        shapes = {
            "query, key, value": (rows, 1024, 3072),
            "projection": (rows, 1024, 1024),
            "first of MLP": (rows, 1024, 4096),
            "second of MLP": (rows, 4096, 1024),
            "keys and values of 12 layers": (rows, 1024, 18432 if stage.full else 1024),
        }
        for name, shape in shapes.items():
            found[name] = matmul_tflops(stage, shape, torch.bfloat16)
    with stage.finding("attention of a batch in bf16, us") as found:
        attention_times(stage, found)
    with stage.finding("memory and uploads, GB/s") as found:
        bandwidths(stage, found)
    with stage.finding("JPEG files decoded a second") as found:
        settings = ["0.7", "512", "1024"] if stage.full else ["0.05", "512"]
        command = [sys.executable, "-m", "gpu_check.decoding", *settings]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        found |= json.loads(done.stdout.splitlines()[-1])


def versions(stage: Stage, found: dict[str, Any]) -> None:
    found |= {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        found["usable_cpus"] = len(os.sched_getaffinity(0))
    found |= {name: library_state(name, load=stage.full) for name in LIBRARIES}
    if not stage.on_gpu:
        return
    gpu = torch.cuda.get_device_properties(stage.device)
    found |= {"gpu": gpu.name, "multiprocessors": gpu.multi_processor_count}
    found |= {"memory_gb": round(gpu.total_memory / 2**30), "cuda": torch.version.cuda}
    found["cudnn"] = torch.backends.cudnn.version()
    fields = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu,pcie.link.gen.current"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    found["nvidia-smi"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()


def library_state(name: str, load: bool) -> str:
    """Return the version of a library, or "not installed".

    Args:
        name: its distribution.
        load: also import it, which takes seconds, and report if that fails.
    """
    try:
        installed = version(name)
    except PackageNotFoundError:
        return "not installed"
    if load:
        try:
            importlib.import_module(MODULES.get(name, name))
        except Exception as error:  # a broken library may raise anything
            return f"{installed}, cannot be imported: {type(error).__name__}: {error}"
    return installed


def matmul_rates(stage: Stage, found: dict[str, Any]) -> None:
    side = 8192 if stage.full else 256
    try:
        for name, (dtype, precision) in PRECISIONS.items():
            torch.set_float32_matmul_precision(precision)
            found[name] = matmul_tflops(stage, (side, side, side), dtype)
    finally:
        torch.set_float32_matmul_precision("highest")


def matmul_tflops(stage: Stage, shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=stage.device, dtype=dtype)
    b = torch.randn(columns, inner, device=stage.device, dtype=dtype)
    bias = torch.randn(columns, device=stage.device, dtype=dtype)
    took = stage.median_seconds(lambda: F.linear(a, b, bias))
    return round(2 * rows * inner * columns / took / 1e12, 3)


def attention_times(stage: Stage, found: dict[str, Any]) -> None:
    qkv = torch.randn(stage.batch, 197, 3072, device=stage.device, dtype=torch.bfloat16)
    q, k, v = (part.unflatten(-1, (16, 64)).transpose(1, 2) for part in qkv.chunk(3, -1))

    def attend() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        try:
            with sdpa_kernel([getattr(SDPBackend, name)]):
                found[name] = round(1e6 * stage.median_seconds(attend))
        except RuntimeError as error:
            found[name] = f"no: {str(error).splitlines()[0][:80]}"
    found["default"] = round(1e6 * stage.median_seconds(attend))


def bandwidths(stage: Stage, found: dict[str, Any]) -> None:
    count = 2 << 30 if stage.on_gpu else 8 << 20
    source = torch.zeros(count, dtype=torch.uint8, device=stage.device)
    target = torch.zeros_like(source)
    found["copy on the device"] = round(
        2 * count / stage.median_seconds(lambda: target.copy_(source)) / 1e9, 1
    )
    if not stage.on_gpu:
        return
    pageable = torch.zeros(256 << 20, dtype=torch.uint8)
    pinned = pageable.pin_memory()
    part = target[: len(pageable)]
    for name, host in (("upload of pinned memory", pinned), ("upload of pageable memory", pageable)):
        took = stage.median_seconds(lambda host=host: part.copy_(host, non_blocking=True))
        found[name] = round(len(host) / took / 1e9, 1)


if __name__ == "__main__":
    main()
