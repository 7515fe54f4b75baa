"""Random denoising steps and the probability of what they drew, for strategies that compare probabilities.

A random step replaces a part of the predicted noise by new noise. In the formula of noise_schedule, for
one step from level (a, s) to level (a', s'):

    x' = a' * x0 + kept * noise + fresh * new noise

| noise     | fresh                               | kept                 | levels        | source |
|---|---|---|---|---|
| cps       | s' sin(eta pi / 2)                  | sqrt(s'^2 - fresh^2) | all           | Wang, Yu 2025 |
| ddim      | eta s'/s sqrt(1 - a^2/a'^2)         | sqrt(s'^2 - fresh^2) | a^2 + s^2 = 1 | Song et al. 2021 |
| flow_sde  | eta sqrt(s/(1 - s)) sqrt(s - s')    | s' - fresh^2/(2 s)   | a + s = 1     | Liu et al. 2025 |
| dance_sde | eta sqrt(s - s')                    | s' - fresh^2/(2 s)   | a + s = 1     | Xue et al. 2025 |

cps and ddim leave as much noise as the next level has. flow_sde and dance_sde, Euler steps of a stochastic
differential equation, leave more, so that their images are noisier.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from ..errors import ConfigError
from .noise_schedule import NoiseSchedule

__all__ = ["log_prob", "noise_scales", "random_schedule"]


def noise_scales(schedule: NoiseSchedule, i: int, noise: str, eta: float) -> tuple[float, float]:
    """Return (fresh, kept): factors of the new and of the predicted noise in a random step.

    Args:
        schedule: noise levels.
        i: index of the step, 0 to N - 1.
        noise: cps, ddim, flow_sde or dance_sde.
        eta: amount of new noise, above 0; at most 1 for cps and ddim.
    """
    (alpha, next_alpha), (sigma, next_sigma) = schedule.alphas[i : i + 2], schedule.sigmas[i : i + 2]
    if noise in ("cps", "ddim"):
        if noise == "cps":
            fresh = next_sigma * math.sin(eta * math.pi / 2)
        else:
            fresh = eta * next_sigma / sigma * math.sqrt(max(1 - (alpha / next_alpha) ** 2, 0.0))
        return fresh, math.sqrt(max(next_sigma**2 - fresh**2, 0.0))
    fresh = eta * math.sqrt(max(sigma - next_sigma, 0.0))
    if noise == "flow_sde":  # at pure noise, the authors' code takes the next level instead
        fresh *= math.sqrt(sigma / (1 - (sigma if sigma < 1 else next_sigma)))
    return fresh, next_sigma - fresh**2 / (2 * sigma)


def random_schedule(schedule: NoiseSchedule, noise: str, eta: float, steps: Collection[int]) -> NoiseSchedule:
    """Return a schedule of the same levels with random ``steps``; the others add no noise.

    Args:
        schedule: noise levels.
        noise: cps, ddim, flow_sde or dance_sde.
        eta: amount of new noise (see noise_scales).
        steps: indices of the random steps.

    Raises:
        ConfigError: the noise does not fit the model.
    """
    if noise == "ddim" and schedule.prediction == "flow":
        raise ConfigError(
            "Cannot use strategy.noise='ddim' with a flow model: it would add more noise than a level has. "
            "Use cps, flow_sde or dance_sde."
        )
    if noise.endswith("_sde") and schedule.prediction != "flow":
        raise ConfigError(
            f"Cannot use strategy.noise={noise!r} with a model that predicts {schedule.prediction}: it is "
            "the equation of a rectified flow. Use cps or ddim."
        )
    scales = [
        noise_scales(schedule, i, noise, eta) if i in steps else (0.0, schedule.sigmas[i + 1])
        for i in range(len(schedule))
    ]
    fresh, kept = (tuple(values) for values in zip(*scales))
    return replace(schedule, new_noise_scales=fresh, kept_noise_scales=kept)


def log_prob(latents: Tensor, mean: Tensor, scale: float, noise: str) -> Tensor:
    """Return the log-probability of the latents after a random step, the mean over elements, (B,) float64.

    That of cps is minus the mean square without the scale, as its authors use it.

    Args:
        latents: (B, ...) latents after the step.
        mean: those without new noise (see NoiseSchedule.mean), shaped as ``latents``.
        scale: factor of the new noise, above 0.
        noise: cps, ddim, flow_sde or dance_sde.
    """
    square = (latents - mean).double().flatten(1).pow(2).mean(1)
    if noise == "cps":
        return -square
    return -square / (2 * scale**2) - math.log(scale) - math.log(2 * math.pi) / 2
