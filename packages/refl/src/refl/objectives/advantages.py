"""Advantages: how much better an image is than the others of its prompt.

Sources: the code of DiffusionNFT (arXiv 2509.16117) for one reward, that of X-GenGroup/Flow-Factory for
several (``zscore`` is GDPO). They differ in how they avoid a division by 0. All arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..rewards.reward_loss import ensemble

__all__ = ["advantages", "to_unit"]

EPSILON = 1e-4  # added to the standard deviation of one reward
SMALLEST = 1e-6  # smallest standard deviation of several rewards


def advantages(
    rewards: Mapping[str, Any],
    groups: Sequence[Any] | np.ndarray,
    spread: str = "pooled",
    combine: str = "sum",
    clip: float | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
    kind: str = "sum",
    k: float = 1.0,
) -> np.ndarray:
    """Return the advantage of each image within its group, (N,) float64.

    A group whose rewards are all equal gets exactly 0. A group with a reward that is not finite gets NaN and
    does not count for the spread.

    Args:
        rewards: name -> (N,) rewards.
        groups: N names or numbers; images of the same prompt have the same one.
        spread: divide the distance to the group's mean by the standard deviation of all images (pooled) or
            of the group (group). Unused by zscore.
        combine: sum: combine the weighted rewards, then compare within the group; zscore: z-scores of each
            reward within the group, combined, and z-scores of those over all images.
        clip: clip the result to plus or minus this value; None: do not clip.
        weights: name -> weight, 1 for missing names.
        floors: name -> smallest standard deviation of a reward in zscore, so that differences by rounding
            do not become z-scores of 1; at least 1e-6.
        kind: how weighted rewards or z-scores are combined: sum, min or lower (see losses.ensemble).
        k: number of standard deviations for lower.
    """
    weights, floors = weights or {}, floors or {}
    values = {name: np.asarray(value, np.float64) for name, value in rewards.items()}
    members = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    finite = np.isfinite(np.stack([*values.values()])).all(0)
    kept = ~np.isin(members, members[~finite])
    result = np.full(len(members), np.nan)
    if not kept.any():
        return result
    members = np.unique(members[kept], return_inverse=True)[1].reshape(-1)
    scored = []
    for name, value in values.items():
        value = value[kept]
        if combine == "zscore":
            floor = max(floors.get(name, 0.0), SMALLEST)
            value = centered(value, members) / np.maximum(group_stds(value, members), floor)
        scored.append(weights.get(name, 1.0) * value)
    combined = ensemble(torch.from_numpy(np.stack(scored)), kind, k).numpy()
    if combine == "zscore":
        result[kept] = (combined - combined.mean()) / max(combined.std(), SMALLEST)
    else:
        std = combined.std() if spread == "pooled" else group_stds(combined, members)
        divisor = std + EPSILON if len(values) == 1 else np.maximum(std, SMALLEST)
        result[kept] = centered(combined, members) / divisor
    return result if clip is None else np.clip(result, -clip, clip)


def to_unit(advantages: Any, clip: float) -> np.ndarray:
    """Map advantages (N,) to r in [0, 1]: -``clip`` to 0, 0 to 1/2, ``clip`` to 1."""
    return np.clip(np.asarray(advantages, np.float64) / clip, -1.0, 1.0) / 2 + 0.5


def centered(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return values (N,) minus the mean of their group, exactly 0 where a group's values are all equal."""
    counts = np.bincount(members)
    means = np.bincount(members, values) / counts
    return np.where(is_constant(values, members)[members], 0.0, values - means[members])


def group_stds(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each value's group, (N,)."""
    variances = np.bincount(members, centered(values, members) ** 2) / np.bincount(members)
    return np.sqrt(variances)[members]


def is_constant(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return whether all values of a group are equal, (G,), for group numbers 0 to G - 1."""
    lowest, highest = np.full(members.max() + 1, np.inf), np.full(members.max() + 1, -np.inf)
    np.minimum.at(lowest, members, values)
    np.maximum.at(highest, members, values)
    return lowest == highest
