"""When candidates of a best-of-n are judged, and what each must beat to go on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...errors import InputError
from ...scoring.rewards import require_finite


@dataclass(frozen=True)
class DropPlan:
    """When candidates are judged, and how many of a prompt's go on.

    Attributes:
        at: shares of the denoising steps, rising, each in (0, 1): after them x0 is predicted and scored.
        keep: for each of them the share of a prompt's first candidates that goes on, falling, in (0, 1].
            At least one goes on.
    """

    at: tuple[float, ...] = (0.5,)
    keep: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        at, keep = tuple(self.at), tuple(self.keep)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "keep", keep)
        if not at or len(at) != len(keep):
            raise InputError(f"a drop plan needs as many shares kept as times: at={at}, keep={keep}")
        if not all(0 < a < 1 for a in at) or list(at) != sorted(set(at)):
            raise InputError(f"a drop plan's times are rising shares of the steps in (0, 1), got {at}")
        if not all(0 < k <= 1 for k in keep) or list(keep) != sorted(keep, reverse=True):
            raise InputError(f"a drop plan's kept shares fall, each in (0, 1], got {keep}")

    def checks(self, steps: int) -> dict[int, float]:
        """Steps done -> share of the candidates still there that goes on, for a run of ``steps`` steps."""
        found: dict[int, float] = {}
        before = 1.0
        for at, keep in zip(self.at, self.keep):
            done = min(max(1, round(at * steps)), steps - 1)
            if done >= 1:  # two times that fall on one step are one check
                found[done] = found.get(done, 1.0) * keep / before
            before = keep
        return found


class PredictedRewards:
    """Rewards of predicted images, by prompt and step: what a candidate of a later batch must beat."""

    def __init__(self):
        self._seen: dict[tuple[Hashable, int], list[float]] = defaultdict(list)

    def copy(self) -> PredictedRewards:
        other = PredictedRewards()
        for key, rewards in self._seen.items():
            other._seen[key] = list(rewards)
        return other

    def enter(self, groups: Sequence[Hashable], done: int, rewards: Sequence[float]) -> None:
        """Add rewards of predicted images after ``done`` steps, one for each group named.

        Raises:
            NonFiniteRewardError: a reward that is NaN or infinite.
        """
        require_finite(rewards, "compare candidates", lambda i: f"the reward at index {i}")
        for group, reward in zip(groups, rewards):
            self._seen[group, done].append(reward)

    def survives(self, group: Hashable, done: int, reward: float, share: float) -> bool:
        """Whether ``reward`` is among the best ``share`` of all rewards entered so far."""
        seen = self._seen[group, done]
        keep = max(1, math.ceil(share * len(seen) - 1e-9))
        return sum(other > reward for other in seen) < keep
