"""Rewards of a run: scorers of reward_core or callables, each with a weight."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_core.runs.cuda import tf32

from .config import RewardConfig
from .dtypes import DTYPES, autocast
from .errors import ConfigError, RewardError
from .input_checks import check_rewards
from .losses import reward_loss

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""(pixels (N, 3, H, W) in [0, 1], N prompts) -> (N,) rewards, differentiable in the pixels."""


@dataclass
class Reward:
    """A reward function with its weight and its term of the loss."""

    config: RewardConfig
    function: RewardFunction
    source: str = ""  # origin of the weights; "" for a function of the caller

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards (N,) float32.

        Raises:
            RewardError: the function returned anything else.
        """
        with tf32(False), autocast(pixels.device, DTYPES[self.config.dtype]):
            rewards = self.function(pixels, prompts)
        name = self.config.name
        if not isinstance(rewards, Tensor):
            raise RewardError(
                f"Cannot use the reward {name!r}: it returned {type(rewards).__name__} instead of a tensor "
                f"({len(prompts)},)."
            )
        if rewards.shape != (len(prompts),):
            raise RewardError(
                f"Cannot use the reward {name!r}: it returned a tensor {tuple(rewards.shape)} instead of "
                f"({len(prompts)},). Return one number for each image."
            )
        return rewards.float()


class Rewards:
    """All rewards of a run, in the order of the configuration."""

    def __init__(self, rewards: Sequence[Reward]):
        self.trained = [reward for reward in rewards if reward.config.weight]
        self.held_out = [reward for reward in rewards if not reward.config.weight]

    @property
    def sources(self) -> dict[str, str]:
        """Origins of the weights by name of the reward; functions of the caller have none."""
        return {r.config.name: r.source for r in [*self.trained, *self.held_out] if r.source}

    def loss(self, pixels: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss per image (N,) with gradient, name -> rewards (N,) without gradient)."""
        total = pixels.new_zeros(len(prompts))
        values = {}
        for reward in self.trained:
            rewards = reward(pixels, prompts)
            config = reward.config
            total = total + config.weight * reward_loss(rewards, config.phi, config.target)
            values[config.name] = rewards.detach()
        return total, values

    @torch.no_grad()
    def held_out_rewards(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> rewards (N,) of the held-out rewards."""
        return {reward.config.name: reward(pixels, prompts) for reward in self.held_out}

    @torch.no_grad()
    def all(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> rewards (N,) of every reward."""
        return {r.config.name: r(pixels, prompts) for r in [*self.trained, *self.held_out]}

    def check(self, height: int, width: int, device: torch.device) -> None:
        """Try every reward on two gray images, so that errors show before training.

        Raises:
            RewardError: a reward fails, returns a wrong shape, or is trained and has no gradient.
        """
        prompts = ["an image", "another image"]
        for reward in [*self.trained, *self.held_out]:
            pixels = torch.full((2, 3, height, width), 0.5, device=device, requires_grad=True)
            try:
                rewards = reward(pixels, prompts)
            except RewardError:
                raise
            except Exception as error:
                raise RewardError(
                    f"Cannot use the reward {reward.config.name!r}: it failed on two images with "
                    f"{type(error).__name__}: {error}"
                ) from error
            if reward.config.weight and not rewards.requires_grad:
                raise RewardError(
                    f"Cannot train on the reward {reward.config.name!r}: it has no gradient. Compute it with "
                    "differentiable operations, or set its weight to 0 to only log it."
                )


def check_reward_names(configs: Sequence[RewardConfig], functions: Collection[str]) -> None:
    """Raise an error for invalid reward names before anything is loaded.

    Raises:
        RewardError: a name is neither that of a function nor loadable by reward_core.
        ConfigError: no reward has the name of a function.
    """
    names = [config.name for config in configs]
    if unused := [name for name in functions if name not in names]:
        raise ConfigError(
            f"Cannot use the reward functions {', '.join(map(repr, unused))}: the settings' rewards are "
            f"{', '.join(map(repr, names))}. Add it to the settings, as in rewards=[{{name: {unused[0]}}}]."
        )
    check_rewards(names, functions)


def load_rewards(
    configs: Sequence[RewardConfig],
    device: torch.device,
    functions: Mapping[str, RewardFunction] | None = None,
) -> Rewards:
    """Load the rewards: those named in ``functions`` are callables, all others scorers of reward_core.

    Raises:
        RewardError: a reward cannot be loaded.
        ConfigError: no reward has the name of a function.
    """
    import reward_core
    from reward_core.errors import RewardCoreError

    functions = functions or {}
    check_reward_names(configs, functions)
    rewards = []
    for config in configs:
        function, source = functions.get(config.name), ""
        if function is None:
            logger.info("loading %s", config.name)
            try:
                model = reward_core.load(config.name, device=device)
            except RewardCoreError as error:
                raise RewardError(f"Cannot load the reward {config.name!r}: {error}") from error

            function = model.requires_grad_(False).eval().rewards_from_pixels
            source = "" if model.source is None else str(model.source)
        elif isinstance(function, nn.Module):
            function = function.to(device).requires_grad_(False).eval()
        rewards.append(Reward(config, function, source))
    return Rewards(rewards)
