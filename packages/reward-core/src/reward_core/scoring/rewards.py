"""Rankings of rewards, and the check that rewards are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, NonFiniteRewardError


def ranking(rewards: Sequence[float]) -> list[int]:
    """Return the rank of each reward, 1 for the highest; equal rewards in input order.

    Raises:
        InputError: ``rewards`` is not a list of numbers.
        NonFiniteRewardError: a reward that is NaN or infinite.
    """
    rewards = reward_list(rewards, None, "rewards")
    require_finite(rewards, f"rank {len(rewards)} rewards", lambda i: f"the reward at index {i}")
    best_first = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    ranks = [0] * len(rewards)
    for rank, i in enumerate(best_first, start=1):
        ranks[i] = rank
    return ranks


def reward_list(answer: Any, count: int | None, source: str) -> list[float]:
    """Return the rewards of a scorer as a list of floats.

    Args:
        answer: rewards (N,) or (N, 1), as a tensor, an array or a list.
        count: expected number of rewards; None accepts any number.
        source: name of the rewards in error messages.

    Raises:
        InputError: wrong type, shape or number of rewards.
    """
    expected = "one number for each image" if count is None else f"{count} numbers, one for each image"
    try:
        is_tensor = isinstance(answer, Tensor)
        rewards = answer.detach().cpu() if is_tensor else torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Cannot use {source}: expected {expected}, got {answer!r:.80}.") from error
    columns = rewards.shape[1:]
    fits = rewards.ndim >= 1 and tuple(columns) in ((), (1,)) and count in (None, len(rewards))
    if not fits or rewards.is_complex():
        actual = f"a tensor of shape {tuple(rewards.shape)}"
        raise InputError(f"Cannot use {source}: expected {expected}, got {actual}.")
    return rewards.double().flatten().tolist()


def scorer_rewards(scorer: object, answer: Any, names: Sequence[str]) -> list[float]:
    """Return a scorer's rewards as floats: one finite number for each name.

    Raises:
        InputError: wrong type, shape or number of rewards.
        NonFiniteRewardError: a reward that is NaN or infinite; the error names its image.
    """
    kind = type(scorer).__name__
    rewards = reward_list(answer, len(names), f"the rewards of {kind}.score_pairs")
    require_finite(rewards, f"use the rewards of {kind}", lambda i: f"the reward of {names[i]}")
    return rewards


def require_finite(rewards: Sequence[float], task: str, name: Callable[[int], str]) -> None:
    """Raise NonFiniteRewardError for the first reward that is NaN or infinite."""
    for i, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise NonFiniteRewardError(
                f"Cannot {task}: {name(i)} is {reward}. Have the scorer return finite numbers, for example "
                "by computing in float32."
            )


def checked_finite(rewards: Tensor, name: Callable[[int], str]) -> Tensor:
    """Return the rewards unchanged after checking that they are finite.

    Raises:
        NonFiniteRewardError: a reward that is NaN or infinite; the error names the first one.
    """
    bad = (~rewards.isfinite()).flatten().nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise NonFiniteRewardError(
            f"Cannot score the images: the reward of {name(i)} is {rewards.flatten()[i].item()}. "
            "Check the model's weights (and the pixels) for NaN and infinite numbers."
        )
    return rewards
