"""Table and JSON of tools/bench_scoring.py."""

from __future__ import annotations

import argparse
import resource
from dataclasses import asdict, dataclass
from typing import Any

import torch
from matrix_rates import Limit
from rich.table import Table

from reward_core.rankings.agreement import agreement
from reward_core.rankings.correlation import kendall
from reward_core.scoring.precision import encoder_dtype

# Names of what is measured. Faster precisions have their own names.
ONE = "batch size 1, float32"
AUTOCAST = "autocast, in batches"
EXACT = "exact, in batches"
FROM_TENSORS = ", from tensors"


@dataclass(frozen=True)
class Measured:
    """The figures of a run.

    Attributes:
        args: the command line.
        device: name of the device.
        batch_size: images in a batch.
        images_per_s: images per second, by name.
        limits: limits of matrix products, by dtype.
        images_per_s_by_prompts: images per second of fast, by the number of prompts per image.
        gflop_per_image: work of an image with one prompt.
        grids: rewards (P, N) of "exact", "autocast" and the faster precisions.
        compiled: whether fast was compiled.
    """

    args: argparse.Namespace
    device: str
    batch_size: int
    images_per_s: dict[str, float]
    limits: dict[str, Limit]
    images_per_s_by_prompts: dict[int, float]
    gflop_per_image: float
    grids: dict[str, torch.Tensor]
    compiled: bool

    @property
    def dtype(self) -> str:
        """Dtype of fast."""
        return str(encoder_dtype("fast", torch.device(self.args.device))).removeprefix("torch.")

    def table(self) -> Table:
        args, rates = self.args, self.images_per_s
        title = f"{args.size} model, {args.device}, {args.source}, {self.dtype}, batches of {self.batch_size}"
        table = Table("path", "images/s", "times", "times autocast", title=title)
        for path, rate in rates.items():
            baseline = rates[AUTOCAST]
            if path.endswith(FROM_TENSORS):
                baseline = rates[AUTOCAST + FROM_TENSORS]
            table.add_row(path, f"{rate:.2f}", f"{rate / rates[ONE]:.2f}", f"{rate / baseline:.2f}")
        for name, limit in self.limits.items():
            work = f"{limit.tflops:.2f} TFLOP/s at most"
            table.add_row(f"limit: {name} products", f"{limit.images_per_s:.2f}", work, "")
        for count, rate in self.images_per_s_by_prompts.items():
            table.add_row(
                f"fast, {count} prompts per image", f"{rate:.2f}", f"{rate * count:.1f} rewards/s", ""
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dict for JSON."""
        rates, grids, limit = self.images_per_s, self.grids, self.limits[self.dtype].tflops
        exact, fast, speed = grids["exact"], grids["fast"], rates["fast"]
        result = {
            "device": self.device,
            "images_per_s_one_at_a_time": round(rates[ONE], 3),
            "images_per_s_batched": round(rates[EXACT], 3),
            "images_per_s_fast": round(speed, 3),
            "speedup": round(speed / rates[ONE], 3),
            "matmul_tflops": round(limit, 3),
            "fraction_of_limit": round(speed * self.gflop_per_image / 1e3 / limit, 3),
            "max_diff": round((fast - exact).abs().max().item(), 5),
            "tau": round(float(kendall(exact.flatten().numpy(), fast.flatten().numpy())), 5),
            "reward_std": round(exact.std().item(), 3),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "reward_std_by_picture": round(exact.std(1).mean().item(), 3),
            "reward_std_by_prompt": round(exact.std(0).mean().item(), 3),
            "mean_diff": round((fast - exact).mean().item(), 5),
            "compiled": self.compiled,
            "images_per_s_fast_uncompiled": round(rates["fast, uncompiled"], 3),
            "images_per_s_by_prompts": {
                count: round(rate, 3) for count, rate in self.images_per_s_by_prompts.items()
            },
            "images_per_s_autocast": round(rates[AUTOCAST], 3),
            "speedup_over_autocast": round(speed / rates[AUTOCAST], 3),
            "images_per_s": {name: round(rate, 3) for name, rate in rates.items()},
            "limits": {
                name: {key: round(value, 3) for key, value in asdict(limit).items()}
                for name, limit in self.limits.items()
            },
            "agreement": {
                name: {key: round(value, 5) for key, value in asdict(found).items()}
                for name, found in self.agreements().items()
            },
        }
        if self.args.source == "files":
            result["fraction_of_resident"] = round(speed / rates["fast" + FROM_TENSORS], 3)
        return result

    def agreements(self) -> dict[str, Any]:
        """Return the agreement of autocast and each faster precision with exact."""
        exact = self.grids["exact"].numpy()
        return {name: agreement(exact, grid.numpy()) for name, grid in self.grids.items() if name != "exact"}
