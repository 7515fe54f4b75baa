"""Rewards of a step's images compared within their groups: advantages, and statistics to log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..config import StrategyConfig, TrainConfig
from ..rewards.reward_loss import reward_loss
from .advantages import advantages, centered, to_unit
from .objective import RewardStatistics, StepStatistics

logger = logging.getLogger(__name__)
FLOOR = 0.01  # z-scores divide by at least this share of a reward's mean spread in the run


@dataclass
class RunSpread:
    """Mean standard deviation of each reward over the sets of images of a run.

    Attributes:
        sums: reward name -> sum of its standard deviations.
        count: number of sets.
    """

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, config: TrainConfig, rewards: Mapping[str, np.ndarray]) -> None:
        """Add a set of N images with rewards name -> (N,)."""
        self.count += 1
        for name, values in _trained(config, rewards).items():
            self.sums[name] = self.sums.get(name, 0.0) + _std(values[np.isfinite(values)])

    def floors(self) -> dict[str, float]:
        """Return name -> smallest standard deviation that z-scores divide by."""
        return {name: FLOOR * value / self.count for name, value in self.sums.items()}


@dataclass(frozen=True)
class GroupRewards:
    """How much better each image is than its group.

    Attributes:
        advantages: (N,) clipped advantages; 0 where an image is not kept.
        kept: (N,) whether the rewards of the image's whole group are finite.
        statistics: what to log.
    """

    advantages: np.ndarray
    kept: np.ndarray
    statistics: StepStatistics


def compare_groups(
    config: TrainConfig, rewards: Mapping[str, np.ndarray], floors: Mapping[str, float]
) -> GroupRewards:
    """Compare the rewards of N images, ``strategy.group`` in a row for each prompt.

    Args:
        config: settings of the run.
        rewards: name -> (N,) rewards, also of held-out rewards.
        floors: name -> smallest standard deviation that z-scores divide by.
    """
    strategy = config.strategy
    groups = np.arange(len(next(iter(rewards.values())))) // strategy.group
    result = advantages(
        _trained(config, rewards),
        groups,
        strategy.spread,
        strategy.combine,
        strategy.advantage_clip,
        weights={c.name: c.weight for c in config.rewards},
        floors=floors,
        kind=config.loss.ensemble,
        k=config.loss.ensemble_k,
    )
    kept = np.isfinite(result)
    result = np.where(kept, result, 0.0)
    return GroupRewards(result, kept, _statistics(strategy, rewards, result, kept))


def warn_of_broken(
    rewards: Mapping[str, np.ndarray], trained: Sequence[str], prompts: Sequence[str], first: int
) -> None:
    """Warn of the first sample whose trained reward is not finite; its group is skipped."""
    for name in trained:
        broken = np.flatnonzero(~np.isfinite(rewards[name]))
        if len(broken):
            more = f" ({len(broken) - 1} more samples)" if len(broken) > 1 else ""
            logger.warning(
                f"the reward {name!r} of sample {first + broken[0]} ({prompts[broken[0]]!r}) is "
                f"{rewards[name][broken[0]]}{more}; its group is skipped"
            )


def _trained(config: TrainConfig, rewards: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return name -> (N,) the trained rewards as the loss sees them."""
    return {c.name: _capped(rewards[c.name], c.phi, c.target) for c in config.rewards if c.weight}


def _capped(rewards: np.ndarray, phi: str, target: float) -> np.ndarray:
    return -reward_loss(torch.from_numpy(rewards), phi, target).numpy()


def _std(values: np.ndarray) -> float:
    return float(values.std()) if len(values) else 0.0


def _statistics(
    strategy: StrategyConfig, rewards: Mapping[str, np.ndarray], advantage: np.ndarray, kept: np.ndarray
) -> StepStatistics:
    means, values = {}, {}
    group = strategy.group
    for name, all_values in rewards.items():
        finite = all_values[np.isfinite(all_values)]
        means[name] = RewardStatistics(float(finite.mean()) if len(finite) else float("nan"), _std(finite))
        by_group = all_values.reshape(-1, group)
        whole = by_group[np.isfinite(by_group).all(1)]
        members = np.repeat(np.arange(len(whole)), group)
        deviations = centered(whole.ravel(), members).reshape(-1, group) if len(whole) else whole
        values[f"reward/{name}/group_std"] = (
            float(np.sqrt((deviations**2).mean(1)).mean()) if len(whole) else 0.0
        )
    constant = (advantage.reshape(-1, group) == 0).all(1)
    skipped = ~kept.reshape(-1, group).all(1)
    if strategy.name == "nft":
        r = to_unit(advantage[kept], strategy.advantage_clip)
        values["nft/r"] = float(r.mean()) if kept.any() else 0.5
    values |= {
        f"{strategy.name}/constant_groups": float((constant & ~skipped).mean()),
        f"{strategy.name}/skipped_groups": float(skipped.mean()),
    }
    return StepStatistics(means, values, float((constant | skipped).mean()), bool(kept.any()))
