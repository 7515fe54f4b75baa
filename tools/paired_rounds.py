"""Measurements that alternate in rounds, for machines whose speed varies.

Each round runs every path once, one after the other, and starts with another path. A ratio of two paths is
taken within a round, so that it does not depend on how fast the machine is at that time. Medians and
quartiles of the ratios are reported.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from scoring_workload import synchronize

Clock = Callable[[], float]


@dataclass(frozen=True)
class Rounds:
    """Seconds of paths in rounds.

    Attributes:
        seconds: seconds of each round, by path.
        units: units of work of one call, such as images, by path.
    """

    seconds: Mapping[str, list[float]]
    units: Mapping[str, int]

    def rate(self, path: str) -> float:
        """Return the median of the units per second."""
        return self.units[path] / statistics.median(self.seconds[path])

    def best(self, path: str) -> float:
        """Return the units per second of the fastest round."""
        return self.units[path] / min(self.seconds[path])

    def times(self, path: str, baseline: str) -> tuple[float, float, float]:
        """Return quartiles of the rate of a path divided by that of a baseline."""
        work = self.units[path] / self.units[baseline]
        ratios = [work * slow / own for slow, own in zip(self.seconds[baseline], self.seconds[path])]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, median, high

    def to_dict(self, baselines: tuple[str, ...]) -> dict[str, dict[str, object]]:
        """Return rate, seconds and ratios of each path as a dict for JSON."""
        found: dict[str, dict[str, object]] = {}
        for path, seconds in self.seconds.items():
            found[path] = {
                "rate": round(self.rate(path), 3),
                "best": round(self.best(path), 3),
                "seconds": [round(took, 4) for took in seconds],
                **{f"times {base}": [round(x, 3) for x in self.times(path, base)] for base in baselines},
            }
        return found


def run_rounds(
    works: Mapping[str, tuple[int, Callable[[], object]]],
    device: torch.device,
    rounds: int,
    clock: Clock = perf_counter,
) -> Rounds:
    """Run paths alternately, after a warm-up of each.

    Args:
        works: units of work of a call and the call, by path.
        device: device that computes.
        rounds: number of rounds.
        clock: function that returns the time in seconds.
    """
    for _, work in works.values():
        work()
    took: dict[str, list[float]] = {path: [] for path in works}
    order = deque(works)
    for _ in range(rounds):
        for path in order:
            took[path].append(seconds_of(works[path][1], device, clock))
        order.rotate(-1)
    return Rounds(took, {path: units for path, (units, _) in works.items()})


def best_seconds(
    works: Mapping[Hashable, Callable[[], object]], device: torch.device, rounds: int, clock: Clock
) -> dict[Hashable, float]:
    """Return the best time of each call over some alternating rounds, the first of which is the warm-up."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], seconds_of(work, device, clock))
    return best


def seconds_of(work: Callable[[], object], device: torch.device, clock: Clock = perf_counter) -> float:
    """Return the seconds of one call."""
    synchronize(device)
    started = clock()
    work()
    synchronize(device)
    return clock() - started
