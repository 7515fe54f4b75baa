"""Stateless arithmetic of denoising steps.

All samplers share one formula. At step i the latents are

    x_i = alpha_i * x0 + sigma_i * noise

and a step computes x0 and the noise from the denoiser's output, then moves to the next level:

    x_{i+1} = alpha_{i+1} * x0 + sqrt(sigma_{i+1}^2 - new_i^2) * noise + new_i * new noise

With new = 0 this is DDIM (Song et al. 2021, eq. 12), Euler's method on the probability-flow ODE
(Karras et al. 2022) and Euler's method on a rectified flow, whose alpha is 1 - sigma. With the posterior's
standard deviation as new it is DDPM (Ho et al. 2020).

diffusers' schedulers provide only the levels and the timesteps. Their step methods are not used: they keep
a step index between calls, which gradient checkpointing would advance twice.

The Euler scheduler of diffusers keeps its latents at x0 + s * noise. This module divides them by
sqrt(s^2 + 1), which gives the denoiser's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import PREDICTIONS, clean

from ..errors import ConfigError, ModelError

SAMPLERS = ("ddim", "ddpm", "euler", "flow")

# Alphas up to this have no signal. x0 is read from epsilon by a division by alpha; Stable Diffusion, which
# ends at 0.07, is far from that.
NO_SIGNAL = 1e-3


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of one sampling run of N steps.

    Attributes:
        timesteps: N timesteps for the denoiser, first to last.
        alphas: N + 1 factors of the clean latents; the last one belongs to the result.
        sigmas: N + 1 factors of the noise.
        new_noise_scales: N factors of the new noise that a step adds (0 for deterministic samplers).
        prediction: what the denoiser predicts: epsilon, v_prediction, sample or flow (noise - x0).
        initial_scale: factor from standard normal noise to the first latents.
        kept_noise_scales: N factors of the predicted noise that a step keeps; None: together with the new
            noise, as much as the next level has.
    """

    timesteps: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    new_noise_scales: tuple[float, ...]
    prediction: str
    initial_scale: float = 1.0
    kept_noise_scales: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def clean(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        """Return the clean latents that ``output`` at step i predicts, shaped as x."""
        return clean(x, output, self.alphas[i], self.sigmas[i], self.prediction)

    def noise(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        """Return the noise that ``output`` at step i predicts, shaped as ``x``."""
        return predicted_noise(x, output, self.alphas[i], self.sigmas[i], self.prediction)

    def levels(self) -> Tensor:
        """Return timesteps, alphas and sigmas of the steps, (3, N) float32 on the CPU."""
        return torch.tensor([self.timesteps, self.alphas[:-1], self.sigmas[:-1]], dtype=torch.float32)

    def step(self, x: Tensor, output: Tensor, i: int, new_noise: Tensor | None = None) -> Tensor:
        """Compute the latents of step i + 1.

        Args:
            x: (B, ...) latents of step i.
            output: denoiser output for ``x``, shaped as ``x``.
            i: index of the step, 0 to N - 1.
            new_noise: standard normal noise, shaped as ``x``; required if ``new_noise_scales[i]`` is not 0.
        """
        x = self.mean(x, output, i)
        if self.new_noise_scales[i]:
            if new_noise is None:
                raise ValueError(f"Cannot take step {i} of a stochastic sampler: new_noise is missing.")
            x = x + self.new_noise_scales[i] * new_noise
        return x

    def mean(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        """Return the latents of step i + 1 without the new noise, shaped as ``x``."""
        if self.kept_noise_scales is None:
            kept = math.sqrt(max(self.sigmas[i + 1] ** 2 - self.new_noise_scales[i] ** 2, 0.0))
        else:
            kept = self.kept_noise_scales[i]
        return self.alphas[i + 1] * self.clean(x, output, i) + kept * self.noise(x, output, i)

    def renoise(self, x0: Tensor, noise: Tensor, i: int) -> Tensor:
        """Add ``noise`` to clean latents ``x0``, up to the level of step i."""
        return self.alphas[i] * x0 + self.sigmas[i] * noise


def predicted_noise(x: Tensor, output: Tensor, alpha: Any, sigma: Any, prediction: str) -> Tensor:
    """Return the noise that ``output`` predicts in ``x = alpha * x0 + sigma * noise``, shaped as ``x``."""
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return alpha * output + sigma * x
    if prediction == "flow":
        return x + alpha * output
    return (x - alpha * output) / sigma


def training_target(x0: Tensor, noise: Tensor, alpha: Any, sigma: Any, prediction: str) -> Tensor:
    """Return the ideal output for ``alpha * x0 + sigma * noise``, shaped as x0."""
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        return alpha * noise - sigma * x0
    if prediction == "flow":
        return noise - x0
    return x0


def check_process(scheduler: Any) -> None:
    """Check that this module's formulas apply to the noise process of a model.

    diffusers builds any scheduler from the configuration of any other and fills in defaults. Without this
    check, a model of another noise process would be trained at levels that it has never seen.

    Raises:
        ModelError: a process with neither betas nor a flow (EDM, as in Playground v2.5), or an unknown
            prediction type.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return
    config, kind = scheduler.config, type(scheduler).__name__
    has_betas = config.get("beta_start") is not None or config.get("trained_betas") is not None
    prediction = config.get("prediction_type", "epsilon")
    if not has_betas or prediction not in PREDICTIONS[:3] or config.get("use_flow_sigmas"):
        raise ModelError(
            f"Cannot train a model with scheduler {kind}, prediction type {prediction!r}"
            f"{'' if has_betas else ' and no betas'}: its noise process is not supported. Use a model with "
            f"betas and prediction type {', '.join(PREDICTIONS[:3])}, or with "
            "FlowMatchEulerDiscreteScheduler."
        )


def make_schedule(scheduler: Any, steps: int, sampler: str, **timestep_options: Any) -> NoiseSchedule:
    """Compute the levels of a sampler from the config of a diffusers scheduler.

    Args:
        scheduler: scheduler of the pipeline; only its config is used (betas, spacing, prediction type).
        steps: number of denoising steps, at least 1.
        sampler: ddim, ddpm or euler for models with betas, flow for rectified-flow models.
        timestep_options: passed to ``set_timesteps`` (``mu`` for resolution-dependent shifting).

    Raises:
        ConfigError: an unknown sampler, one that does not fit the model, or too many steps.
        ModelError: an unsupported noise process.
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
        raise ConfigError(f"Cannot use rollout.sampler={sampler!r}: it must be one of {', '.join(SAMPLERS)}.")
    check_process(scheduler)
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if is_flow != (sampler == "flow"):
        expected = "flow" if is_flow else "ddim, ddpm or euler"
        raise ConfigError(f"Cannot use rollout.sampler={sampler!r}: it must be {expected} for this model.")
    source = kinds[sampler].from_config(scheduler.config)
    trained = source.config.num_train_timesteps
    if sampler in ("ddim", "ddpm") and steps > trained:
        raise ConfigError(
            f"Cannot sample with {steps} steps: this model supports at most {trained} with {sampler}. Lower "
            "rollout.steps or validation.steps."
        )
    source.set_timesteps(steps, **timestep_options)
    timesteps = tuple(float(t) for t in source.timesteps)
    if len(timesteps) != steps:
        raise ConfigError(
            f"Cannot sample with {steps} steps: the model's scheduler would take {len(timesteps)}. Set "
            "rollout.steps to a number that it supports."
        )
    if sampler in ("ddim", "ddpm") and timesteps[0] >= trained:  # by steps_offset
        raise ConfigError(
            f"Cannot sample with {steps} steps: the first would be at timestep {timesteps[0]:g}, and this "
            f"model knows those below {trained}. Lower rollout.steps or validation.steps."
        )
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
    """Return a model's training timesteps, alphas and sigmas, (T,) float32 each."""
    check_process(scheduler)
    if hasattr(scheduler, "alphas_cumprod"):
        alphas_cumprod = scheduler.alphas_cumprod.double()
        steps = torch.arange(len(alphas_cumprod), dtype=torch.float32)
        return steps, alphas_cumprod.sqrt().float(), (1 - alphas_cumprod).sqrt().float()
    flow_scheduler = type(scheduler).from_config(scheduler.config)
    sigmas = flow_scheduler.sigmas[flow_scheduler.sigmas > 0].float().cpu()
    return sigmas * scheduler.config.num_train_timesteps, 1 - sigmas, sigmas
