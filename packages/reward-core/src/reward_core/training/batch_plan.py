"""Which groups a run sees at which step, and how a step is shared out; decided by settings and seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import TrainingConfig

MicroBatch = tuple[int, ...]  # numbers of groups


@dataclass(frozen=True)
class Step:
    """One step's groups in micro-batches; number ``i`` is computed by rank ``i % ranks``."""

    epoch: int
    micro_batches: tuple[MicroBatch, ...]

    def of_rank(self, rank: int, ranks: int) -> list[MicroBatch]:
        """A rank's micro-batches; empty ones where others have one more, so that all pass as often."""
        rounds = -(-len(self.micro_batches) // ranks)
        own = list(self.micro_batches[rank::ranks])
        return own + [()] * (rounds - len(own))


class BatchPlan:
    """All steps of a run.

    Each epoch goes through all groups once, in an order of its own. A group is never split. As the
    micro-batches do not depend on who computes them, two ranks with ``accumulation=1`` add up the same
    numbers as one rank with ``accumulation=2``.

    Args:
        pairs: untied pairs of each group, all above 0.
        settings: batch size, unit, accumulation, epochs, steps, seed.
        ranks: processes of the run.
    """

    def __init__(self, pairs: Sequence[int], settings: TrainingConfig, ranks: int):
        self.steps: list[Step] = []
        self.validation_steps: set[int] = set()
        self.epoch_ends: set[int] = set()
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(pairs)).tolist()
            if settings.batch_unit == "groups":
                micro = [
                    tuple(order[i : i + settings.batch_size])
                    for i in range(0, len(order), settings.batch_size)
                ]
                each = settings.accumulation * ranks
                steps = [Step(epoch, tuple(micro[i : i + each])) for i in range(0, len(micro), each)]
            else:
                steps = _by_pairs(order, pairs, settings, ranks, epoch)
            first = len(self.steps)
            self.steps += steps
            self.epoch_ends.add(len(self.steps))
            for part in range(1, settings.validations + 1):
                self.validation_steps.add(first + round(len(steps) * part / settings.validations))
            if settings.steps and len(self.steps) >= settings.steps:
                break
        if settings.steps:
            self.steps = self.steps[: settings.steps]
        self.validation_steps = {step for step in self.validation_steps if step < len(self.steps)}
        self.validation_steps.add(len(self.steps))
        self.validation_steps.discard(0)


def _by_pairs(
    order: list[int], pairs: Sequence[int], settings: TrainingConfig, ranks: int, epoch: int
) -> list[Step]:
    wanted = settings.batch_size * settings.accumulation * ranks
    steps: list[Step] = []
    for batch in _filled(order, pairs, wanted):
        steps.append(Step(epoch, tuple(tuple(m) for m in _filled(batch, pairs, settings.batch_size))))
    return steps


def _filled(groups: list[int], pairs: Sequence[int], wanted: int) -> list[list[int]]:
    """Lots of groups, each closed as soon as it has so many pairs; the last one may have fewer."""
    lots: list[list[int]] = [[]]
    held = 0
    for group in groups:
        if held >= wanted:
            lots.append([])
            held = 0
        lots[-1].append(group)
        held += pairs[group]
    return [lot for lot in lots if lot]
