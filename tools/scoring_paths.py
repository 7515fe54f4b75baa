"""Models and calls that tools/bench_scoring.py measures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image
from scoring_baselines import (
    at_batch_size_1,
    for_autocast,
    in_16_bits,
    plain_batches,
    resident,
    without_onednn,
)
from scoring_images import mixed_images, prompts_of
from scoring_workload import build, spread_to_one

import reward_core as RM
from reward_core.errors import InputError
from reward_core.network.onednn_linear import onednn_is_faster
from reward_core.scoring.precision import PRECISIONS, encoder_dtype

ONE = "batch size 1"
AUTOCAST = "autocast"
CONVERTED = "autocast, converted"
EXACT = "exact"
TORCH_LINEAR = "exact, torch's linear layers"
FROM_TENSORS = ", from tensors"
SEVERAL_PROMPTS = (10, 100)

Works = dict[str, tuple[int, Callable[[], object]]]


class Models:
    """The exact model, its faster precisions and the baselines, and the rewards (P, N) of each by name.

    Attributes:
        compiled: whether fast was compiled or recorded.
        compiling: the seconds it took.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, device: torch.device, size: int) -> None:
        self.exact = build(args.size, folder, args.seed).to(device)
        self.images = mixed_images(args.pictures, 2 * self.exact.config.image_size, args.seed)
        self.prompts, self.size = prompts_of(args.seed), size
        exact_grid = spread_to_one(self.exact, self.grid(self.exact))
        saved = folder / "model"
        self.exact.save_pretrained(saved)
        self.original = without_onednn(self.exact)
        dtype = encoder_dtype("fast", device) if device.type == "cuda" else torch.bfloat16
        self.autocast = partial(torch.autocast, device.type, dtype)
        self.converted = for_autocast(self.exact, dtype)
        with self.autocast():
            self.grids = {
                "exact": exact_grid,
                "autocast": self.grid(self.converted),
                "sums in 16 bits": self.grid(in_16_bits(self.exact, dtype)),
            }
        self.faster: dict[str, RM.RewardModel] = {}
        self.compiled, self.compiling = False, 0.0
        for name in PRECISIONS:
            if name not in ("exact", "auto"):
                self._load(name, saved, device, args.no_compile)

    def _load(self, name: str, saved: Path, device: torch.device, no_compile: bool) -> None:
        """Load a faster precision and compute its rewards, if the machine supports it."""
        try:
            model = RM.load(saved, device, precision=name)
        except InputError as error:
            print(f"{name}: not supported on this machine ({error})")
            return
        self.faster[name] = model
        if not no_compile:
            started = perf_counter()
            compiled = model.warm_up(self.size)
            if name == "fast":
                self.compiled, self.compiling = compiled, perf_counter() - started
        self.grids[name] = self.grid(model)

    def grid(self, model: RM.RewardModel) -> torch.Tensor:
        return model.score_matrix(self.prompts, self.images, batch_size=self.size)


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
        self.prompts = [models.prompts[i % len(models.prompts)] for i in range(timed)]
        self.levels = torch.stack([exact.transform.prepare(image) for image in images]).to(exact.device)
        self.files = [str(folder / f"{i}.jpg") for i in range(timed)]
        for image, file in zip(images, self.files):
            image.save(file, quality=95)
        self.sources: list[Image.Image] | list[str] = self.files if self.source == "files" else images

    def scored(self, model: RM.RewardModel, source: str, count: int | None = None) -> Callable[[], object]:
        """Return a call that scores the first ``count`` images (default: all)."""
        size, prompts = self.models.size, self.prompts[:count]
        if source == "files":
            return lambda: model.score_pairs(prompts, self.files[:count], batch_size=size)
        return lambda: resident(model, self.levels[:count], prompts, size)

    def plain(self, model: RM.RewardModel) -> Callable[[], object]:
        """Return the baseline: the model called in batches under autocast, from pixels that are ready."""
        pixels = self.models.exact.transform.finish(self.levels)
        size = self.models.size

        def score() -> object:
            with self.models.autocast():
                return plain_batches(model, pixels, self.prompts, size)

        return score

    def batches(self) -> Works:
        """Return calls that score all images with one prompt each, in 16 or 8 bits."""
        models, timed = self.models, len(self.prompts)
        works: Works = {
            AUTOCAST: (timed, self.plain(models.original)),
            CONVERTED: (timed, self.plain(models.converted)),
        }
        for name, model in models.faster.items():
            works[name] = timed, self.scored(model, self.source)
        return works

    def slower(self) -> Works:
        """Return calls that score images with one prompt each in float32, and faster ones beside them.

        On a CPU the exact paths score one batch.
        """
        models, timed = self.models, len(self.prompts)
        on_cpu = models.exact.device.type == "cpu"
        single, exact = min(timed, 2 if on_cpu else 64), min(timed, models.size) if on_cpu else timed
        first: list = self.sources[:single]
        if self.source == "tensors":
            first = [models.exact.transform.from_pil(image) for image in first]
        one = partial(at_batch_size_1, models.original, first, self.prompts[:single])
        works: Works = {ONE: (single, one), EXACT: (exact, self.scored(models.exact, self.source, exact))}
        if onednn_is_faster():
            works[TORCH_LINEAR] = exact, self.scored(models.original, self.source, exact)
        for name, model in models.faster.items():
            works[name] = timed, self.scored(model, self.source)
            if self.source == "files":
                works[name + FROM_TENSORS] = timed, self.scored(model, "tensors")
        return works

    def single_image(self) -> Works:
        """Return calls that score one image with one prompt."""
        models, prompt, source = self.models, self.prompts[0], self.sources[0]
        works: Works = {ONE: (1, partial(at_batch_size_1, models.original, [source], [prompt]))}
        scorers = {EXACT: models.exact, **models.faster}
        for name, model in scorers.items():
            works[name] = 1, partial(model.score, prompt, source)
        return works

    def several_prompts(self, count: int) -> Works:
        """Return calls that score a batch of images with ``count`` prompts each; the unit is a reward.

        The baseline scores as many pairs as there are images.
        """
        models = self.models
        prompts = [models.prompts[i % len(models.prompts)] for i in range(count)]
        images = self.sources[: min(models.size, max(1, 200 // count))]
        works: Works = {AUTOCAST: (len(self.prompts), self.plain(models.original))}
        scorers = {EXACT: models.exact, **models.faster}
        for name, model in scorers.items():
            works[name] = len(images) * count, partial(model.score_matrix, prompts, images)
        return works
