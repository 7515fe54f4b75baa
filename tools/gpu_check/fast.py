"""The fast path in variants: speed, agreement, host waits, kernels, other threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from scoring_baselines import at_batch_size_1, without_onednn
from scoring_workload import PROMPTS, gflop, varied_images
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .measure import Stage
from .models import Steps, exact_and_fast, saved_model, steps_of
from .threads import in_threads
from .waits import host_waits, kernels

LENGTH = 16  # text tokens: one of the lengths that prompts are padded to


class Batch:
    """A batch of seeded levels on the device and tokens on the CPU, and the exact rewards."""

    def __init__(self, stage: Stage, config: Any) -> None:
        self.stage, self.gflop = stage, gflop(config, LENGTH)
        size = config.image_size
        levels = torch.randint(256, (stage.batch, size, size, 3), dtype=torch.uint8)
        self.levels = levels.to(stage.device)
        self.token_ids = torch.randint(5, 30, (stage.batch, LENGTH))
        self.mask = torch.ones_like(self.token_ids)
        self.exact: Tensor | None = None

    @torch.no_grad()
    def rewards(self, steps: Steps) -> Tensor:
        """Return the rewards (B,) on the device."""
        return steps(self.levels, self.token_ids, self.mask)

    def measure(self, steps: Steps, found: dict[str, Any]) -> None:
        """Store the speed of the steps, their memory and the difference from the exact rewards."""
        if self.stage.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        rewards = self.rewards(steps).clone()
        if self.exact is None:
            self.exact = rewards
        difference = (rewards - self.exact).abs().max() / self.exact.std()
        found["difference_over_std"] = round(difference.item(), 5)
        took = self.stage.median_seconds(lambda: self.rewards(steps), 1.0)
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
    with stage.finding("fast, eager") as found:
        check_fused(stage, model, found)
        batch.measure(steps, found)
    if stage.on_gpu:
        with stage.finding("fast, eager, cuDNN attention first") as found, cudnn_first():
            batch.measure(steps, found)
    with stage.finding("kernels, eager") as found:
        kernels(stage, lambda: batch.rewards(steps), "eager", found)
    if stage.on_gpu:  # on a CPU it compiles for minutes
        with stage.finding("warm_up") as found:
            found["ready"] = model.warm_up(stage.batch)
    recorded = steps_of(model, recorded=True)
    with stage.finding("fast, recorded") as found:
        batch.measure(recorded, found)
    with stage.finding("fast, recorded, by batch size") as found:
        by_batch_size(stage, model, batch, found)
    with stage.finding("kernels, recorded") as found:
        kernels(stage, lambda: batch.rewards(recorded), "recorded", found)
    if stage.on_gpu:
        with stage.finding("waits of the host") as found:
            waits(stage, model, found)
    with stage.finding("from 512 px images in memory") as found:
        from_memory(stage, model, found)
    with stage.finding("two other threads") as found:
        in_threads(partial(few_pairs, stage, model), found)
    if stage.on_gpu:
        with stage.finding("fast, compiled") as found:
            compiled(stage, model, batch, found)


def check_fused(stage: Stage, model: Any, found: dict[str, Any]) -> None:
    """Store whether the encoders are fused; raise RuntimeError if a GPU would run them unfused."""
    found["fused"] = model.path().vision is not None
    if stage.on_gpu and not found["fused"]:
        raise RuntimeError("Cannot measure the fused encoders: they need Triton. Install it.")


@contextmanager
def cudnn_first() -> Iterator[None]:
    names = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    with sdpa_kernel([getattr(SDPBackend, name) for name in names], set_priority=True):
        yield


def by_batch_size(stage: Stage, model: Any, batch: Batch, found: dict[str, Any]) -> None:
    """Measure other batch sizes."""
    steps = steps_of(model, recorded=True)
    for size in (1, 8, 32, 128, 256) if stage.full else (1, 2):
        if stage.on_gpu:
            model.warm_up(size)
        times = -(-size // stage.batch)
        levels = batch.levels.repeat(times, 1, 1, 1)[:size]
        token_ids, mask = (tokens.repeat(times, 1)[:size] for tokens in (batch.token_ids, batch.mask))

        @torch.no_grad()
        def once(inputs: tuple = (levels, token_ids, mask)) -> Tensor:
            return steps(*inputs)

        once()
        found[f"{size}: images/s"] = round(size / stage.median_seconds(once, 0.4), 1)


def compiled(stage: Stage, model: Any, batch: Batch, found: dict[str, Any]) -> None:
    """Measure the model as torch.compile computes it, without our kernels."""
    plain = copy.deepcopy(model)
    plain.fast = False

    def steps(levels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        return plain(plain.transform.finish(levels), token_ids, mask)

    function = torch.compile(steps, dynamic=False)
    inputs = batch.levels, batch.token_ids.to(stage.device), batch.mask.to(stage.device)

    @torch.no_grad()
    def once() -> Tensor:
        return function(*inputs)

    found["compiling_s"] = round(stage.seconds(once), 1)
    batch.store_speed(stage.median_seconds(once, 1.0), found)


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


def few_pairs(stage: Stage, model: Any, number: int) -> Tensor:
    """Return rewards of images that depend on a number."""
    images = varied_images(2 * stage.batch, 256, seed=number)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(images))]
    return model.score_pairs(prompts, images, batch_size=stage.batch)


if __name__ == "__main__":
    main()
