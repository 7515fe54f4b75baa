"""The arithmetic of denoising steps, stateless.

Every sampler here is one formula. At step i the latents are

    x_i = alpha_i * x0 + sigma_i * noise

and a step reads x0 and the noise from the denoiser's output, then goes to the next level:

    x_{i+1} = alpha_{i+1} * x0 + sqrt(sigma_{i+1}^2 - new_i^2) * noise + new_i * new noise

With new = 0 this is DDIM (Song et al. 2021, eq. 12), Euler's method on the probability-flow ODE
(Karras et al. 2022) and Euler's method on a rectified flow, whose alpha is 1 - sigma; with the posterior's
deviation as new it is DDPM (Ho et al. 2020). diffusers' schedulers give the levels and the timesteps, and
nothing else: they keep a step index between calls, which recomputation in the backward pass would spoil.

Diffusers' Euler keeps its latents at x0 + s * noise; here they are divided by sqrt(s^2 + 1), which is what
its denoiser sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import PREDICTIONS, clean

from .errors import ConfigError, ModelError

SAMPLERS = ("ddim", "ddpm", "euler", "flow")


@dataclass(frozen=True)
class NoiseSchedule:
    """Levels of one sampling run of N steps.

    Attributes:
        timesteps: N values the denoiser is told, first to last.
        alphas: N + 1 shares of the clean latents; the last one is the result's.
        sigmas: N + 1 shares of noise.
        new_noise_scales: N shares of new noise that a step adds (0 for deterministic samplers).
        prediction: what the denoiser gives: epsilon, v_prediction, sample or flow (noise - x0).
        initial_scale: by how much standard normal noise is multiplied to give the first latents.
    """

    timesteps: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    new_noise_scales: tuple[float, ...]
    prediction: str
    initial_scale: float = 1.0

    def __len__(self) -> int:
        return len(self.timesteps)

    def clean(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        """The clean latents x0 that the denoiser's output at step i stands for; shapes as x."""
        return clean(x, output, self.alphas[i], self.sigmas[i], self.prediction)

    def noise(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        """The noise that the denoiser's output at step i stands for; shapes as x."""
        alpha, sigma = self.alphas[i], self.sigmas[i]
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return alpha * output + sigma * x
        if self.prediction == "flow":
            return x + alpha * output
        return (x - alpha * output) / sigma

    def step(self, x: Tensor, output: Tensor, i: int, new_noise: Tensor | None = None) -> Tensor:
        """Latents of step i + 1 from those of step i.

        Args:
            x: (B, ...) latents of step i.
            output: the denoiser's answer to them.
            i: 0 to N - 1.
            new_noise: standard normal, as x; needed where ``new_noise_scales[i]`` is not 0.
        """
        x0, noise = self.clean(x, output, i), self.noise(x, output, i)
        new_noise_scale = self.new_noise_scales[i]
        noise_scale = math.sqrt(max(self.sigmas[i + 1] ** 2 - new_noise_scale**2, 0.0))
        x = self.alphas[i + 1] * x0 + noise_scale * noise
        if new_noise_scale:
            if new_noise is None:
                raise ValueError(f"step {i} of a random sampler needs new noise")
            x = x + new_noise_scale * new_noise
        return x

    def renoise(self, x0: Tensor, noise: Tensor, i: int) -> Tensor:
        """Clean latents brought to the noise level of step i."""
        return self.alphas[i] * x0 + self.sigmas[i] * noise


def training_target(x0: Tensor, noise: Tensor, alpha: Any, sigma: Any, prediction: str) -> Tensor:
    """What the denoiser should answer to alpha * x0 + sigma * noise; shapes as x0."""
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        return alpha * noise - sigma * x0
    if prediction == "flow":
        return noise - x0
    return x0


def check_process(scheduler: Any) -> None:
    """Whether the formulas here are those of the noise that a model was trained on.

    diffusers makes any scheduler of any other's configuration, with its own defaults for what is missing:
    a model of another process would be sampled, and trained, in silence at levels that it never saw.

    Raises:
        ModelError: neither betas nor a flow, such as the EDM of Playground v2.5; or an unknown prediction.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return
    config, kind = scheduler.config, type(scheduler).__name__
    has_betas = config.get("beta_start") is not None or config.get("trained_betas") is not None
    prediction = config.get("prediction_type", "epsilon")
    if not has_betas or prediction not in PREDICTIONS[:3] or config.get("use_flow_sigmas"):
        raise ModelError(
            f"the model's scheduler is {kind} with prediction {prediction!r}"
            f"{'' if has_betas else ' and without betas'}: another noise process than those that can be "
            f"trained, which have betas and predict {', '.join(PREDICTIONS[:3])}, or are the flow of "
            "FlowMatchEulerDiscreteScheduler"
        )


def make_schedule(scheduler: Any, steps: int, sampler: str, **timestep_options: Any) -> NoiseSchedule:
    """The levels that a diffusers scheduler's configuration means for a sampler.

    Args:
        scheduler: any scheduler of a pipeline; its config says betas, spacing and prediction.
        steps: number of denoising steps, at least 1.
        sampler: ddim, ddpm, euler (denoisers of noise) or flow (denoisers of a flow).
        timestep_options: passed on to ``set_timesteps`` (``mu`` for resolution-dependent shifting).

    Raises:
        ConfigError: a sampler that does not go with the model, or is unknown; more steps than it has.
        ModelError: another noise process.
    """
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
    )

    kinds = {
        "ddim": DDIMScheduler,
        "ddpm": DDPMScheduler,
        "euler": EulerDiscreteScheduler,
        "flow": FlowMatchEulerDiscreteScheduler,
    }
    if sampler not in kinds:
        raise ConfigError(f"rollout.sampler: unknown {sampler!r}; one of {', '.join(SAMPLERS)}")
    check_process(scheduler)
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if is_flow != (sampler == "flow"):
        expected = "flow" if is_flow else "ddim, ddpm or euler"
        raise ConfigError(f"rollout.sampler: {sampler!r} does not go with this model, which needs {expected}")
    source = kinds[sampler].from_config(scheduler.config)
    trained = source.config.num_train_timesteps
    if sampler in ("ddim", "ddpm") and steps > trained:
        raise ConfigError(
            f"rollout.steps: {steps} steps, but with {sampler} this model has {trained} at most "
            "(validation.steps too)"
        )
    source.set_timesteps(steps, **timestep_options)
    timesteps = tuple(float(t) for t in source.timesteps)
    if len(timesteps) != steps:
        raise ConfigError(f"rollout.steps: {steps} steps became {len(timesteps)} in this model's scheduler")
    if sampler == "flow":
        sigmas = tuple(float(s) for s in source.sigmas)
        return NoiseSchedule(timesteps, tuple(1 - s for s in sigmas), sigmas, (0.0,) * steps, "flow")
    prediction = source.config.prediction_type
    if sampler == "euler":
        ratios = [float(s) for s in source.sigmas]
        alphas = tuple(1 / math.sqrt(s**2 + 1) for s in ratios)
        sigmas = tuple(s / math.sqrt(s**2 + 1) for s in ratios)
        scale = float(source.init_noise_sigma) * alphas[0]
        return NoiseSchedule(timesteps, alphas, sigmas, (0.0,) * steps, prediction, scale)
    alphas_cumprod = source.alphas_cumprod.double()
    levels = [float(alphas_cumprod[int(t)]) for t in timesteps]
    if sampler == "ddim":
        before = int(timesteps[-1]) - source.config.num_train_timesteps // steps
        levels.append(float(alphas_cumprod[before] if before >= 0 else source.final_alpha_cumprod))
        new_noise_scales = (0.0,) * steps
    else:
        levels.append(1.0)
        new_noise_scales = tuple(
            math.sqrt((1 - after) / (1 - now) * (1 - now / after)) for now, after in pairwise(levels)
        )
    alphas = tuple(math.sqrt(level) for level in levels)
    sigmas = tuple(math.sqrt(1 - level) for level in levels)
    return NoiseSchedule(timesteps, alphas, sigmas, new_noise_scales, prediction)


def training_levels(scheduler: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(timesteps, alphas, sigmas) over all the levels that a model was trained on, (T,) float32 each."""
    check_process(scheduler)
    if hasattr(scheduler, "alphas_cumprod"):
        alphas_cumprod = scheduler.alphas_cumprod.double()
        steps = torch.arange(len(alphas_cumprod), dtype=torch.float32)
        return steps, alphas_cumprod.sqrt().float(), (1 - alphas_cumprod).sqrt().float()
    flow_scheduler = type(scheduler).from_config(scheduler.config)
    sigmas = flow_scheduler.sigmas[flow_scheduler.sigmas > 0].float().cpu()
    return sigmas * scheduler.config.num_train_timesteps, 1 - sigmas, sigmas
