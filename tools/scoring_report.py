"""Tables and JSON of tools/bench_scoring.py."""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from matrix_rates import Limit
from paired_rounds import Rounds
from rich.table import Table
from scoring_paths import AUTOCAST, CONVERTED, ONE

from reward_core.rankings.agreement import agreement
from reward_core.rankings.correlation import kendall


@dataclass(frozen=True)
class Measured:
    """The figures of a run.

    Attributes:
        args: the command line.
        device: name of the device.
        batch_size: images in a batch.
        batches: rounds of batches with one prompt an image, in 16 or 8 bits; the unit is an image.
        slower: the same in float32, and faster paths beside it.
        single: rounds of one image with one prompt.
        several: rounds of several prompts an image, by their number; the unit is a reward.
        limits: limits of matrix products, by dtype.
        gflop_per_image: work of an image with one prompt.
        grids: rewards (P, N) of "exact", "autocast" and the faster precisions.
        compiled: whether fast was compiled.
    """

    args: argparse.Namespace
    device: str
    batch_size: int
    batches: Rounds
    slower: Rounds
    single: Rounds
    several: Mapping[int, Rounds]
    limits: dict[str, Limit]
    gflop_per_image: float
    grids: dict[str, torch.Tensor]
    compiled: bool

    def tables(self) -> Iterator[Table]:
        """Yield the tables that the tool prints."""
        args = self.args
        title = f"{args.size} model, {args.device}, from {args.source}, batches of {self.batch_size}"
        yield rounds_table(title, "images/s", self.batches, (AUTOCAST, CONVERTED))
        yield rounds_table("beside float32", "images/s", self.slower, (ONE,))
        yield rounds_table("one image, one prompt", "images/s", self.single, (ONE,))
        for count, rounds in self.several.items():
            yield rounds_table(f"{count} prompts an image", "rewards/s", rounds, (AUTOCAST,))
        limits = Table("products", "TFLOP/s at most", "images/s", title="limits")
        for name, limit in self.limits.items():
            limits.add_row(name, f"{limit.tflops:.2f}", f"{limit.images_per_s:.2f}")
        yield limits
        columns = ("largest", "root mean square", "tau", "tau by prompt", "changed winners")
        agreements = Table("path", *columns, title="difference from exact, in deviations of its rewards")
        for name, found in agreement_report(self.grids)["agreement"].items():
            agreements.add_row(name, *map(str, list(found.values())[:5]))
        yield agreements

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dict for JSON."""
        return {
            "device": self.device,
            "size": self.args.size,
            "source": self.args.source,
            "batch_size": self.batch_size,
            "torch": torch.__version__,
            "batches": self.batches.to_dict((AUTOCAST, CONVERTED)),
            "slower": self.slower.to_dict((ONE,)),
            "single_image": self.single.to_dict((ONE,)),
            "several_prompts": {count: found.to_dict((AUTOCAST,)) for count, found in self.several.items()},
            "limits": {
                name: {key: round(value, 3) for key, value in asdict(limit).items()}
                for name, limit in self.limits.items()
            },
            "gflop_per_image": round(self.gflop_per_image, 1),
            "compiled": self.compiled,
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            **agreement_report(self.grids),
        }


def rounds_table(title: str, unit: str, rounds: Rounds, baselines: tuple[str, ...]) -> Table:
    """Return a table with the rate of each path, and its ratio to each baseline with quartiles."""
    table = Table("path", unit, "best", *(f"times {name}" for name in baselines), title=title)
    for path in rounds.seconds:
        ratios = (rounds.times(path, baseline) for baseline in baselines)
        cells = [f"{median:.2f} ({low:.2f}-{high:.2f})" for low, median, high in ratios]
        table.add_row(path, f"{rounds.rate(path):.2f}", f"{rounds.best(path):.2f}", *cells)
    return table


def agreement_report(grids: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the agreement with exact of each other grid of rewards (P, N), and the spread of exact.

    Differences are in standard deviations of all exact rewards. ``tau`` is of all rewards together,
    ``tau_by_prompt`` the mean over the prompts.
    """
    exact = grids["exact"].double()
    std = exact.std(correction=0)
    found = {}
    for name, grid in grids.items():
        if name == "exact":
            continue
        by_prompt = agreement(exact.numpy(), grid.numpy())
        difference = (grid.double() - exact) / std
        found[name] = {
            "max_difference": round(by_prompt.max_difference, 4),
            "rms_difference": round(difference.square().mean().sqrt().item(), 4),
            "tau": round(float(kendall(exact.flatten().numpy(), grid.double().flatten().numpy())), 4),
            "tau_by_prompt": round(by_prompt.tau, 4),
            "changed_winners": by_prompt.changed_winners,
            "mean_difference": round(difference.mean().item(), 4),
        }
    return {
        "reward_std": round(std.item(), 3),
        "reward_std_by_image": round(exact.std(1).mean().item(), 3),
        "reward_std_by_prompt": round(exact.std(0).mean().item(), 3),
        "images": exact.shape[1],
        "prompts": exact.shape[0],
        "agreement": found,
    }
