"""The fast path in variants: speed, agreement, host waits, kernels, other threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from bench_scoring import at_batch_size_1
from scoring_workload import PROMPTS, gflop, varied_images, without_onednn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .measure import Stage
from .models import Steps, exact_and_fast, saved_model, steps_of
from .threads import in_threads
from .waits import host_waits, kernels

LENGTH = 16  # text tokens: one of the lengths that prompts are padded to


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
    def rewards(self, steps: Steps) -> Tensor:
        """Return the rewards (B,) on the device."""
        return steps(self.pixels, self.token_ids, self.mask)

    def measure(self, steps: Steps, found: dict[str, Any]) -> None:
        """Store the speed of the steps, their memory and the difference from the exact rewards."""
        if self.stage.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        rewards = self.rewards(steps).clone()
        if self.exact is None:
            self.exact = rewards
        difference = (rewards - self.exact).abs().max() / self.exact.std()
        found["difference_over_std"] = round(difference.item(), 5)
        took = self.stage.median_seconds(lambda: self.rewards(steps), 1.0 if self.stage.full else 0.1)
        self.store_speed(took, found)
        if self.stage.on_gpu:
            found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def store_speed(self, took: float, found: dict[str, Any]) -> None:
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
        batch.measure(steps_of(exact), found)
    with stage.finding("save for the bulk stage"):
        saved_model(stage, exact)
    del exact
    steps = steps_of(model)
    with stage.finding("fast, uncompiled") as found:
        batch.measure(steps, found)
    if stage.on_gpu:
        with stage.finding("fast, uncompiled, cuDNN attention first") as found, cudnn_first():
            batch.measure(steps, found)
        with stage.finding("waits of the host") as found:
            waits(stage, model, found)
    with stage.finding("from 512 px images in memory, uncompiled") as found:
        from_memory(stage, model, found)
    with stage.finding("two other threads, uncompiled") as found:
        in_threads(partial(few_pairs, stage, model), found)
    with stage.finding("kernels, uncompiled") as found:
        kernels(stage, lambda: batch.rewards(steps), "uncompiled", found)
    if stage.on_gpu:  # late, because a failed capture can break what follows
        for name, context in (("", nullcontext), (", cuDNN attention first", cudnn_first)):
            with stage.finding(f"fast, one CUDA graph{name}") as found, context():
                captured(stage, batch, steps, found)
    compiled_variants(stage, batch, steps)
    with stage.finding("warm_up, then from 512 px images in memory") as found:
        found["warm_up_s"] = round(stage.seconds(lambda: model.warm_up(stage.batch)), 1)
        from_memory(stage, model, found)
    with stage.finding("two other threads, after warm_up") as found:
        in_threads(partial(few_pairs, stage, model), found)


@contextmanager
def cudnn_first() -> Iterator[None]:
    names = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    with sdpa_kernel([getattr(SDPBackend, name) for name in names], set_priority=True):
        yield


def captured(stage: Stage, batch: Batch, steps: Steps, found: dict[str, Any]) -> None:
    """Measure the replay of one CUDA graph with all steps."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = batch.rewards(steps)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            result = batch.rewards(steps)
    batch.store_speed(stage.median_seconds(graph.replay, 1.0), found)
    found["difference_from_uncompiled"] = (result - expected).abs().max().item()


def compiled_variants(stage: Stage, batch: Batch, steps: Steps) -> None:
    """Measure all steps compiled as one function."""
    variants: dict[str, dict[str, Any]] = {"compiled by aot_eager": {"backend": "aot_eager"}}
    if stage.on_gpu:
        variants = {"compiled, reduce-overhead": {"mode": "reduce-overhead"}, "compiled, without graphs": {}}
    for name, options in variants.items():
        torch.compiler.reset()
        compiled = torch.compile(steps, dynamic=False, **options)
        with stage.finding(name) as found, cudnn_first() if stage.on_gpu else nullcontext():
            found["compiling_s"] = round(stage.seconds(partial(batch.rewards, compiled)), 1)
            for _ in range(3):  # graphs are recorded at the second and third call
                batch.rewards(compiled)
            batch.measure(compiled, found)
        with stage.finding(f"kernels, {name}") as found:
            kernels(stage, partial(batch.rewards, compiled), name, found)


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
    images = varied_images(16, 512) * (stage.batch if stage.full else 1)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    few = 2 * stage.batch
    for name, on_device in (("resized by the GPU", True), ("resized by Pillow", False)):
        if on_device and not stage.on_gpu:
            continue
        model.resize_on_device = on_device
        model.score_pairs(prompts[:few], images[:few], batch_size=stage.batch)
        took = stage.seconds(lambda: model.score_pairs(prompts, images, batch_size=stage.batch))
        found[f"{name}, images/s"] = round(len(images) / took)
    model.resize_on_device = True
    if stage.on_gpu:
        reserved = torch.cuda.memory_reserved()
        for _ in range(8):
            model.score_pairs(prompts[: stage.batch], images[: stage.batch], batch_size=stage.batch)
        found["reserved_mb_after_8_calls"] = round((torch.cuda.memory_reserved() - reserved) / 2**20)


def few_pairs(stage: Stage, model: Any) -> Tensor:
    images = varied_images(2 * stage.batch, 256)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    return model.score_pairs(prompts, images, batch_size=stage.batch)


if __name__ == "__main__":
    main()
