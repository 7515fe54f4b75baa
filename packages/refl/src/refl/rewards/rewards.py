"""Rewards of a run: scorers of reward_core or callables, each with a weight."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reward_core.runs.cuda import tf32
from reward_core.scoring.scoring_model import ScoringModel

from ..checks.input_checks import check_rewards, is_import_path
from ..config import RewardConfig
from ..dtypes import DTYPES, autocast
from ..errors import RewardError
from .error_place import described
from .image_rewards import ImageFunction, ImageReward, import_function
from .reward_loss import ensemble, reward_loss

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""(pixels (N, 3, H, W) in [0, 1], N prompts) -> (N,) rewards, differentiable in the pixels."""

AnyReward = RewardFunction | ImageFunction

#: What to do about a function that fails, by whether it gets PIL images.
_ADVICE = {
    True: "Correct the function.",
    False: "Correct the function; one of PIL images needs strategy.name=nft or grpo, or `input: images` and "
    "weight 0.",
}


@dataclass
class Reward:
    """A reward function with its weight and its term of the loss."""

    config: RewardConfig
    function: RewardFunction
    source: str = ""  # origin of the weights; "" for a function of the caller
    recorded: RewardFunction | None = None  # the function as CUDA graphs

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards (N,) float32.

        Raises:
            RewardError: the function returned anything else.
        """
        with tf32(False), autocast(pixels.device, DTYPES[self.config.dtype]):
            rewards = (self.recorded or self.function)(pixels, prompts)
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
    """All rewards of a run, in the order of the configuration.

    Args:
        rewards: the rewards; those without weight are held out.
        kind: how several trained rewards become one: sum, min or lower (see losses.ensemble).
        k: number of standard deviations for lower.
    """

    def __init__(self, rewards: Sequence[Reward], kind: str = "sum", k: float = 1.0):
        self.trained = [reward for reward in rewards if reward.config.weight]
        self.held_out = [reward for reward in rewards if not reward.config.weight]
        self.kind, self.k = kind, k

    def __iter__(self) -> Iterator[Reward]:
        """Iterate over all rewards, the trained ones first."""
        return iter([*self.trained, *self.held_out])

    @property
    def sources(self) -> dict[str, str]:
        """Origins of the weights by name of the reward; functions of the caller have none."""
        return {r.config.name: r.source for r in self if r.source}

    def loss(self, pixels: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss per image (N,) with gradient, name -> rewards (N,) without gradient)."""
        values = self.trained_rewards(pixels, prompts)
        return self.loss_of(values), {name: rewards.detach() for name, rewards in values.items()}

    def trained_rewards(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> rewards (N,) of the trained rewards, with gradient."""
        return {reward.config.name: reward(pixels, prompts) for reward in self.trained}

    def loss_of(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each image (N,).

        Args:
            values: name -> rewards (N,), or other values on their scale, of every trained reward.
        """
        losses = [
            config.weight * reward_loss(values[config.name], config.phi, config.target)
            for config in (reward.config for reward in self.trained)
        ]
        return -ensemble(-torch.stack(losses), self.kind, self.k)

    @torch.no_grad()
    def held_out_rewards(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> rewards (N,) of the held-out rewards."""
        return {reward.config.name: reward(pixels, prompts) for reward in self.held_out}

    @torch.no_grad()
    def all(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> rewards (N,) of every reward."""
        return {reward.config.name: reward(pixels, prompts) for reward in self}

    def check(
        self,
        height: int,
        width: int,
        device: torch.device,
        known_prompts: Sequence[str] = ("an image", "another image"),
        needs_gradient: bool = True,
    ) -> None:
        """Try every reward on two gray images, so that errors show before training.

        Args:
            height: height of the images in pixels.
            width: width of the images in pixels.
            device: device of the images.
            known_prompts: two prompts for rewards of images, which may know the run's prompts only.
            needs_gradient: whether trained rewards must have a gradient.

        Raises:
            RewardError: a reward fails, returns a wrong shape, or is trained and has no gradient.
        """
        for reward in self:
            pixels = torch.full((2, 3, height, width), 0.5, device=device, requires_grad=True)
            of_images = isinstance(reward.function, ImageReward)
            prompts = known_prompts if of_images else ("an image", "another image")
            try:
                rewards = reward(pixels, prompts)
            except RewardError:
                raise
            except Exception as error:
                given = "PIL images" if of_images else "a tensor (2, 3, H, W) in [0, 1]"
                raise RewardError(
                    f"Cannot use the reward {reward.config.name!r}: it failed on {given} and two prompts "
                    f"with {described(error)}. {_ADVICE[of_images]}"
                ) from error
            if needs_gradient and reward.config.weight and not rewards.requires_grad:
                raise RewardError(
                    f"Cannot train on the reward {reward.config.name!r}: it has no gradient. Compute it with "
                    "differentiable operations, set its weight to 0 to only log it, or set "
                    "strategy.name=nft or grpo, which need no gradient."
                )


def load_rewards(
    configs: Sequence[RewardConfig],
    device: torch.device,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    needs_gradient: bool = True,
    kind: str = "sum",
    k: float = 1.0,
) -> Rewards:
    """Load the rewards: functions that are passed or imported, all others scorers of reward_core.

    Args:
        configs: the rewards' settings.
        device: device of the scorers.
        functions: name -> function.
        needs_gradient: whether trained rewards must have a gradient; if not, functions get images.
        kind: how several trained rewards become one (see Rewards).
        k: number of standard deviations for lower.

    Raises:
        RewardError: a reward cannot be loaded.
    """
    functions = functions or {}
    check_rewards((config.name for config in configs), functions, needs_gradient=False)
    rewards = []
    for config in configs:
        name, source = config.name, ""
        if name in functions or is_import_path(name):
            function: Any = functions.get(name) or import_function(name)
            if isinstance(function, nn.Module):
                function = function.to(device).requires_grad_(False).eval()
            if config.input == "images" or (not config.input and not needs_gradient):
                function = ImageReward(name, function)
        else:
            function, source = _load_scorer(config, device)
        rewards.append(Reward(config, function, source))
    return Rewards(rewards, kind, k)


def _load_scorer(config: RewardConfig, device: torch.device) -> tuple[RewardFunction, str]:
    """Return the function of a scorer of reward_core, and the origin of its weights."""
    import reward_core
    from reward_core.errors import RewardCoreError

    logger.info("loading %s", config.name)
    try:
        model: Any = reward_core.load(config.name, device=device)
    except RewardCoreError as error:
        raise RewardError(f"Cannot load the reward {config.name!r}: {error}") from error
    if isinstance(model, nn.Module):
        model.requires_grad_(False).eval()
    origin = getattr(model, "source", None)
    source = "" if origin is None else str(origin)
    if config.input != "images" and hasattr(model, "rewards_from_pixels"):
        if config.dtype and isinstance(model, ScoringModel):
            model.convert_for_autocast(DTYPES[config.dtype])
        return model.rewards_from_pixels, source
    if config.input == "pixels":
        raise RewardError(
            f"Cannot use the reward {config.name!r} with input=pixels: it scores images only. Remove the "
            "setting input."
        )
    return ImageReward(config.name, lambda images, prompts: model.score_pairs(prompts, images)), source
