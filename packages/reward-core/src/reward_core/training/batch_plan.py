"""The groups of every step of a run and their distribution over ranks, from settings and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import TrainingConfig
from .optimizers import limit_warmup

MicroBatch = tuple[int, ...]  # indices of groups


@dataclass(frozen=True)
class Step:
    """The micro-batches of one step; rank ``i % ranks`` computes micro-batch ``i``."""

    epoch: int
    micro_batches: tuple[MicroBatch, ...]

    def of_rank(self, rank: int, ranks: int) -> list[MicroBatch]:
        """Return a rank's micro-batches, padded with an empty one if other ranks have one more."""
        rounds = -(-len(self.micro_batches) // ranks)
        batches = list(self.micro_batches[rank::ranks])
        return batches + [()] * (rounds - len(batches))


class BatchPlan:
    """All steps of a run.

    Each epoch visits all groups once, in a different random order. A group is never split. The
    micro-batches do not depend on the rank that computes them, so two ranks with ``accumulation=1`` sum
    the same values as one rank with ``accumulation=2``.

    Args:
        pairs: number of untied pairs of each group, all above 0.
        settings: batch size, unit, accumulation, epochs, steps and seed.
        ranks: number of processes.

    Attributes:
        steps: the steps in order.
        validation_steps: numbers of the steps (from 1) after which to validate.
        epoch_ends: numbers of the last steps of the epochs.
        warmup_steps: number of warm-up steps, limited by the number of steps.
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
                per_step = settings.accumulation * ranks
                steps = [Step(epoch, tuple(micro[i : i + per_step])) for i in range(0, len(micro), per_step)]
            else:
                steps = _steps_by_pairs(order, pairs, settings, ranks, epoch)
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
        self.warmup_steps = limit_warmup(settings.warmup_steps, len(self.steps))


def _steps_by_pairs(
    order: list[int], pairs: Sequence[int], settings: TrainingConfig, ranks: int, epoch: int
) -> list[Step]:
    step_pairs = settings.batch_size * settings.accumulation * ranks
    steps: list[Step] = []
    for batch in _batches_of_pairs(order, pairs, step_pairs):
        micro = _batches_of_pairs(batch, pairs, settings.batch_size)
        steps.append(Step(epoch, tuple(tuple(groups) for groups in micro)))
    return steps


def _batches_of_pairs(groups: list[int], pairs: Sequence[int], size: int) -> list[list[int]]:
    """Split groups into batches that each have at least ``size`` pairs; the last may have fewer."""
    batches: list[list[int]] = [[]]
    count = 0
    for group in groups:
        if count >= size:
            batches.append([])
            count = 0
        batches[-1].append(group)
        count += pairs[group]
    return [batch for batch in batches if batch]
