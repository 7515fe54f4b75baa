"""What comes out of scoring: rows, rankings, and the check that rewards are numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import NonFiniteRewardError


@dataclass(frozen=True)
class ScoredRow:
    """One (prompt, image) of a long run: a score, or the error that kept it from having one."""

    prompt: str
    image: str
    score: float | None
    error: str | None = None


def ranking(rewards: Sequence[float]) -> list[int]:
    """Place of each reward, 1 for the highest; equal rewards in input order."""
    best_first = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    places = [0] * len(rewards)
    for place, i in enumerate(best_first, start=1):
        places[i] = place
    return places


def checked_finite(rewards: Tensor, name: Callable[[int], str]) -> Tensor:
    """The rewards, or an error naming the first pair whose reward is NaN or infinite."""
    bad = (~rewards.isfinite()).flatten().nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise NonFiniteRewardError(
            f"the reward of {name(i)} is {rewards.flatten()[i].item()}: "
            "the model's weights (or the pixels given) are not finite numbers"
        )
    return rewards
