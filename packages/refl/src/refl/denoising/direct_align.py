"""Direct-Align: clean latents after a step between known noise levels (Shen et al. 2025, arXiv 2509.06942).

Generated latents x0 are noised with known noise n to a level: x = alpha * x0 + sigma * n. The denoiser's
step moves x to x' at a neighboring level. Because n is known, x' gives the clean latents without the
error of a prediction over the whole distance: x0^ = (x' - sigma' * n) / alpha'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import clean

from ..errors import ConfigError
from .noise_schedule import NO_SIGNAL, NoiseSchedule, predicted_noise, training_levels


@dataclass(frozen=True)
class Move:
    """A step of the denoiser for each of B images, from one noise level to another.

    Attributes:
        start: (3, B) timesteps, alphas and sigmas before the step.
        end: (3, B) those after it.
        position: (B,) where in the range of levels the less noisy of the two is: 0 at its noisiest level, 1
            at its cleanest.
    """

    start: Tensor
    end: Tensor
    position: Tensor


class LevelRange:
    """The noise levels between two steps of a sampling schedule.

    A flow is defined at every level: sigma is proportional to the timestep. Other models know the levels of
    whole timesteps only, at which they were trained.

    Args:
        schedule: levels of sampling.
        scheduler: the model's scheduler of diffusers, whose training levels are used unless it is a flow.
        first: index of the step with the noisiest level.
        last: index of the step with the cleanest level.
        width: size of a move as a share of the range, above 0 and at most 1/2.

    Raises:
        ConfigError: the noisiest level has no signal, or there are fewer than three levels.
    """

    def __init__(self, schedule: NoiseSchedule, scheduler: Any, first: int, last: int, width: float):
        if schedule.alphas[first] <= NO_SIGNAL:
            raise ConfigError(
                f"Cannot use strategy.first={first} with strategy.name=srpo: the noise level of this step "
                f"has no signal (alpha = {schedule.alphas[first]:.2g}), so no clean image can be read from "
                "it. Use a later step."
            )
        self.is_flow = schedule.prediction == "flow"
        self.high, self.low = schedule.timesteps[first], schedule.timesteps[last]
        self.size = width * (self.high - self.low)
        if self.is_flow:
            self.sigma_per_timestep = schedule.sigmas[first] / self.high
        else:
            _, self.alphas, self.sigmas = training_levels(scheduler)
            self.high, self.low = float(round(self.high)), float(round(self.low))
            self.size = max(1.0, float(round(self.size)))
            if self.high - self.low < 2:
                raise ConfigError(
                    f"Cannot use strategy.first={first} and strategy.last={last} with strategy.name=srpo: "
                    f"there is no noise level between timesteps {self.high:g} and {self.low:g}. Set them "
                    "further apart."
                )
            self.size = min(self.size, (self.high - self.low) // 2)

    def draw(self, share: Tensor, up: bool) -> Move:
        """Return a move to a drawn level.

        Args:
            share: (B,) uniform numbers in [0, 1), on the CPU; equal ones give moves to the same level.
            up: move to the drawn level from a less noisy one, instead of from a noisier one.
        """
        free = self.high - self.low - 2 * self.size
        share = share.double()
        drawn = share * free if self.is_flow else (share * (free + 1)).floor()
        end = self.low + self.size + drawn
        start = end - self.size if up else end + self.size
        position = (self.high - torch.minimum(start, end)) / (self.high - self.low)
        return Move(self._levels(start), self._levels(end), position.float())

    def _levels(self, timesteps: Tensor) -> Tensor:
        if self.is_flow:
            sigmas = timesteps * self.sigma_per_timestep
            return torch.stack([timesteps, 1 - sigmas, sigmas]).float()
        whole = timesteps.long()
        return torch.stack([timesteps.float(), self.alphas[whole], self.sigmas[whole]])


def recovered(x: Tensor, output: Tensor, noise: Tensor, start: Tensor, end: Tensor, kind: str) -> Tensor:
    """Return the clean latents (B, C, h, w) that a step of the denoiser and the known noise give.

    Args:
        x: (B, C, h, w) latents at the level before the step.
        output: output of the denoiser, shaped as ``x``.
        noise: noise in ``x``, shaped as ``x``.
        start: (2, B) alphas and sigmas before the step.
        end: (2, B) those after it.
        kind: prediction type of the denoiser (see NoiseSchedule).
    """
    (alpha, sigma), (next_alpha, next_sigma) = (levels.view(2, -1, 1, 1, 1) for levels in (start, end))
    x0 = clean(x, output, alpha, sigma, kind)
    moved = next_alpha * x0 + next_sigma * predicted_noise(x, output, alpha, sigma, kind)
    return (moved - next_sigma * noise) / next_alpha
