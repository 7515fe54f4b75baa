"""The fast path in variants: speed, agreement, host waits, kernels, a second thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from bench_scoring import at_batch_size_1
from scoring_workload import PROMPTS, gflop, varied_images, without_onednn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reward_core.models.imagereward.fast_path import RewardFastPath
from reward_core.scoring.compiling import CompilePlan
from reward_core.scoring.fast_path import PlainPath

from .measure import Stage
from .models import exact_and_fast, saved_model
from .waits import host_waits, kernels

LENGTH = 16  # text tokens: one of the lengths that prompts are padded to
NEVER = CompilePlan(after=float("inf"))


class Batch:
    """A batch of seeded pixels and tokens on the device, and the exact rewards."""

    def __init__(self, stage: Stage, config: Any) -> None:
        self.stage, self.gflop = stage, gflop(config, LENGTH)
        size = config.image_size
        self.pixels = torch.randn(stage.batch, 3, size, size, device=stage.device)
        self.token_ids = torch.randint(5, 30, (stage.batch, LENGTH), device=stage.device)
        self.mask = torch.ones_like(self.token_ids)
        self.exact: Tensor | None = None

    @torch.no_grad()
    def rewards(self, path: PlainPath) -> Tensor:
        """Return the rewards (B,) on the device."""
        return path.rewards(path.project_kv(path.encode(self.pixels)), self.token_ids, self.mask).float()

    @torch.no_grad()
    def untimed(self, path: RewardFastPath) -> Tensor:
        """Return raw rewards without the clock of an uncompiled path, which a graph cannot record."""
        encode, rewards = path.compiled_encode.function, path.compiled_rewards.function
        return rewards(path.project_kv(encode(self.pixels)), self.token_ids, self.mask)

    def measure(self, path: PlainPath, found: dict[str, Any]) -> None:
        """Store the speed of a path, its memory and its difference from the exact rewards."""
        if self.stage.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        rewards = self.rewards(path)
        if self.exact is None:
            self.exact = rewards
        difference = (rewards - self.exact).abs().max() / self.exact.std()
        found["difference_over_std"] = round(difference.item(), 5)
        took = self.stage.median_seconds(lambda: self.rewards(path), 1.0 if self.stage.full else 0.1)
        self.store(took, found)
        if self.stage.on_gpu:
            found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def store(self, took: float, found: dict[str, Any]) -> None:
        found["images_per_s"] = round(self.stage.batch / took, 1)
        found["tflops"] = round(self.stage.batch * self.gflop / took / 1e3, 2)


def main() -> None:
    stage = Stage.from_command_line()
    with stage.finding("build"):
        exact, model = exact_and_fast(stage)
    batch = Batch(stage, exact.config)
    with stage.finding("batch size 1, float32, 35 tokens") as found:
        count = 32 if stage.full else 4
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
        pixels = list(torch.randn(count, 3, exact.config.image_size, exact.config.image_size))
        one_by_one = partial(at_batch_size_1, without_onednn(exact), pixels, prompts)
        one_by_one()
        found["images_per_s"] = round(count / stage.seconds(one_by_one), 1)
    with stage.finding("exact") as found:
        batch.measure(PlainPath(exact), found)
    with stage.finding("save for the bulk stage"):
        saved_model(stage, exact)
    del exact
    eager = RewardFastPath(model, NEVER, on_gpu=True)
    with stage.finding("fast, uncompiled") as found:
        batch.measure(eager, found)
    if stage.on_gpu:
        with stage.finding("fast, uncompiled, cuDNN attention first") as found, cudnn_first():
            batch.measure(eager, found)
        with stage.finding("waits of the host") as found:
            waits(stage, model, found)
        with stage.finding("from 512 px images in memory") as found:
            from_memory(stage, model, found)
    with stage.finding("second thread, uncompiled") as found:
        in_threads(partial(batch.rewards, eager), found)
    with stage.finding("kernels, uncompiled") as found:
        kernels(stage, lambda: batch.rewards(eager), "uncompiled", found)
    if stage.on_gpu:  # late, because a failed capture can break what follows
        with stage.finding("fast, one captured CUDA graph") as found:
            captured(stage, batch, eager, found)
        with stage.finding("fast, one captured CUDA graph, cuDNN attention first") as found, cudnn_first():
            captured(stage, batch, eager, found)
    variants(stage, batch, model)


@contextmanager
def cudnn_first() -> Iterator[None]:
    names = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    with sdpa_kernel([getattr(SDPBackend, name) for name in names], set_priority=True):
        yield


def captured(stage: Stage, batch: Batch, path: RewardFastPath, found: dict[str, Any]) -> None:
    """Measure the replay of one CUDA graph with all steps."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = batch.untimed(path)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            result = batch.untimed(path)
    batch.store(stage.median_seconds(graph.replay, 1.0), found)
    found["difference_from_uncompiled"] = (result - expected).abs().max().item()


def waits(stage: Stage, model: Any, found: dict[str, Any]) -> None:
    batches = 4
    images = varied_images(8, 448) * (stage.batch * batches // 8)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    works: dict[str, Callable[[], object]] = {
        "score_pairs": lambda: model.score_pairs(prompts, images, batch_size=stage.batch),
        "score_matrix": lambda: model.score_matrix(PROMPTS, images, batch_size=stage.batch),
    }
    host_waits(stage, works, batches, found)


def from_memory(stage: Stage, model: Any, found: dict[str, Any]) -> None:
    """Measure score_pairs of decoded images, and how much memory later calls reserve."""
    images = varied_images(16, 512) * (stage.batch // 2)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    few = 2 * stage.batch
    for name, on_device in (("resized by the GPU", True), ("resized by Pillow", False)):
        model.resize_on_device = on_device
        model.score_pairs(prompts[:few], images[:few], batch_size=stage.batch)
        took = stage.seconds(lambda: model.score_pairs(prompts, images, batch_size=stage.batch))
        found[f"{name}, images/s"] = round(len(images) / took)
    model.resize_on_device = True
    reserved = torch.cuda.memory_reserved()
    for _ in range(8):
        model.score_pairs(prompts[: stage.batch], images[: stage.batch], batch_size=stage.batch)
    found["reserved_mb_after_8_calls"] = round((torch.cuda.memory_reserved() - reserved) / 2**20)


def in_threads(work: Callable[[], Tensor], found: dict[str, Any], threads: int = 2, calls: int = 10) -> None:
    """Call from other threads at once; count results that differ, and errors."""
    expected, wrong = work().clone(), []

    def compare() -> None:
        try:
            wrong.extend("other rewards" for _ in range(calls) if not same(work(), expected))
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {str(error)[:120]}")

    others = [threading.Thread(target=compare) for _ in range(threads)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    found |= {"calls": threads * calls, "wrong": len(wrong), "first": wrong[0] if wrong else ""}


def same(rewards: Tensor, expected: Tensor) -> bool:
    return (rewards - expected).abs().max().item() < 0.02 * expected.std().item()


def variants(stage: Stage, batch: Batch, model: Any) -> None:
    """Measure compiled paths."""
    plans = {"compiled by aot_eager": CompilePlan(after=0.0, backend="aot_eager")}
    if stage.on_gpu:
        plans = {
            "compiled, reduce-overhead": CompilePlan(after=0.0, mode="reduce-overhead"),
            "compiled, without graphs": CompilePlan(after=0.0),
        }
    for name, plan in plans.items():
        path = RewardFastPath(model, plan, on_gpu=True)
        with stage.finding(name) as found, cudnn_first() if stage.on_gpu else nullcontext():
            found["compiling_s"] = round(stage.seconds(lambda path=path: batch.rewards(path)), 1)
            failed = [part.failed for part in (path.compiled_encode, path.compiled_rewards) if part.failed]
            if failed:
                found["failed"] = failed[0]
            for _ in range(3):  # graphs are recorded at the second and third call
                batch.rewards(path)
            batch.measure(path, found)
        with stage.finding(f"kernels, {name}") as found:
            kernels(stage, lambda path=path: batch.rewards(path), name, found)
        with stage.finding(f"second thread, {name}") as found:
            in_threads(partial(batch.rewards, path), found)


if __name__ == "__main__":
    main()
