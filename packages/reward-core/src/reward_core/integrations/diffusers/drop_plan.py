"""The schedule of early dropping, and the comparison of predicted rewards."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...errors import InputError
from ...scoring.rewards import require_finite


@dataclass(frozen=True)
class DropPlan:
    """When candidates are compared, and how many of them are kept.

    Attributes:
        at: fractions of the denoising steps after which x0 is predicted and scored; increasing, in (0, 1).
        keep: fraction of a prompt's candidates, relative to their initial number, to keep at each of these
            checks; decreasing, in (0, 1]. At least one candidate is kept.
    """

    at: tuple[float, ...] = (0.5,)
    keep: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        at, keep = tuple(self.at), tuple(self.keep)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "keep", keep)
        if not at or len(at) != len(keep):
            raise InputError(
                f"Cannot use at={at} with keep={keep}: they must have the same length of at least 1."
            )
        if not all(0 < a < 1 for a in at) or list(at) != sorted(set(at)):
            raise InputError(f"Cannot use at={at}: expected increasing fractions in (0, 1).")
        if not all(0 < k <= 1 for k in keep) or list(keep) != sorted(keep, reverse=True):
            raise InputError(f"Cannot use keep={keep}: expected decreasing fractions in (0, 1].")

    def checks(self, steps: int) -> dict[int, float]:
        """Return {steps done: fraction of the remaining candidates to keep} for a run of ``steps`` steps."""
        checks: dict[int, float] = {}
        previous = 1.0
        for at, keep in zip(self.at, self.keep):
            done = min(max(1, round(at * steps)), steps - 1)
            if done >= 1:  # checks that fall on the same step are merged
                checks[done] = checks.get(done, 1.0) * keep / previous
            previous = keep
        return checks


class PredictedRewards:
    """The rewards of predicted images by group and step, with which later batches are compared."""

    def __init__(self):
        self._seen: dict[tuple[Hashable, int], list[float]] = defaultdict(list)

    def copy(self) -> PredictedRewards:
        """Return an independent copy."""
        other = PredictedRewards()
        for key, rewards in self._seen.items():
            other._seen[key] = list(rewards)
        return other

    def enter(self, groups: Sequence[Hashable], done: int, rewards: Sequence[float]) -> None:
        """Add rewards of images predicted after ``done`` steps.

        Args:
            groups: group of each reward.
            done: steps done.
            rewards: the rewards.

        Raises:
            NonFiniteRewardError: a reward is NaN or infinite.
        """
        require_finite(rewards, "compare candidates", lambda i: f"the reward at index {i}")
        for group, reward in zip(groups, rewards):
            self._seen[group, done].append(reward)

    def survives(self, group: Hashable, done: int, reward: float, share: float) -> bool:
        """Return whether ``reward`` is among the best ``share`` of all rewards of the group so far."""
        seen = self._seen[group, done]
        keep = max(1, math.ceil(share * len(seen) - 1e-9))
        return sum(other > reward for other in seen) < keep
