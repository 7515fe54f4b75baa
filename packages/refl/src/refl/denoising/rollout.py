"""One rollout: noise to clean latents, with gradient at the planned steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reward_core.runs.cuda import upload

from .noise_schedule import NoiseSchedule
from .rollout_plan import RolloutPlan

Denoise = Callable[[Tensor, int], Tensor]
"""(latents (B, ...), step index) -> the denoiser's output, shaped as the latents."""


class SampleNoise:
    """Standard normal noise for a batch, with one random generator per sample.

    A sample's noise depends only on (seed, step, index, purpose), so one process with batch size 4 and two
    processes with batch size 2 draw the same. Noise is drawn on the CPU and is the same for every device.

    Args:
        seed: seed of the run.
        step: optimizer step.
        indices: B indices into the endless sequence of samples.
        purpose: a number that separates the noise of different uses.
    """

    def __init__(self, seed: int, step: int, indices: Sequence[int], purpose: int = 0):
        self.generators = [
            torch.Generator().manual_seed(_mix_seeds(seed, step, index, purpose)) for index in indices
        ]

    def __call__(self, shape: Sequence[int], device: torch.device | str, dtype=torch.float32) -> Tensor:
        """Draw noise (B, *shape). Each call continues the generators."""
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return upload(torch.stack(draws), device).to(dtype)

    def uniform(self) -> Tensor:
        """Draw B uniform numbers in [0, 1)."""
        return torch.stack([torch.rand((), generator=generator) for generator in self.generators])

    def permutations(self, count: int) -> Tensor:
        """Draw B permutations of the numbers below ``count``, (B, count)."""
        return torch.stack([torch.randperm(count, generator=generator) for generator in self.generators])


def _mix_seeds(*numbers: int) -> int:
    """Mix several integers into a 63-bit seed (SplitMix64's finalizer over each)."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def clear_autocast_cache() -> None:
    """Clear autocast's weight cache before a pass with gradient.

    Up to torch 2.9, autocast caches weights that were cast under no_grad and reuses them in the next pass.
    They have no graph, so the gradient would never reach the weights (pytorch issue 112583).
    """
    torch.clear_autocast_cache()


@dataclass(frozen=True)
class Visit:
    """A random step of a rollout, for its probability.

    Attributes:
        step: index of the step.
        latents: (B, ...) latents before the step.
        output: denoiser output for them, shaped as ``latents``.
        after: latents after the step, shaped as ``latents``.
    """

    step: int
    latents: Tensor
    output: Tensor
    after: Tensor


@dataclass
class Rollout:
    """The result of a rollout.

    Attributes:
        latents: clean latents (B, ...); with re-noised copies ((1 + copies) * B, ...), the plain ones first.
        gradient_steps: (index, input latents without gradient, denoiser output) of each gradient step.
        visits: the random steps that the plan names.
    """

    latents: Tensor
    gradient_steps: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)


def rollout(
    denoise: Denoise,
    schedule: NoiseSchedule,
    plan: RolloutPlan,
    latents: Tensor,
    noise: Callable[[], Tensor],
    no_grad_denoise: Denoise | None = None,
    gradient_denoise: Denoise | None = None,
) -> Rollout:
    """Denoise from the first step to ``plan.stop``.

    Args:
        denoise: the denoiser, with guidance.
        schedule: noise levels and step arithmetic.
        plan: which steps carry gradient, and where to stop.
        latents: standard normal noise (B, ...).
        noise: returns new standard normal noise shaped as ``latents``, for stochastic samplers and copies.
        no_grad_denoise: the denoiser of the steps without gradient; None: ``denoise``. Steps whose
            probability is compared use ``denoise``, as the loss does.
        gradient_denoise: the denoiser of the steps with gradient; None: ``denoise``.
    """

    def with_gradient(x: Tensor, i: int) -> Tensor:
        x = x.detach() if plan.detach_input else x
        if gradient_denoise is None or not torch.is_grad_enabled():
            return denoise(x, i)
        return gradient_denoise(x, i)

    x = latents * schedule.initial_scale
    gradient_steps: list[tuple[int, Tensor, Tensor]] = []
    visits: list[Visit] = []
    for i in range(plan.stop + 1):
        if i in plan.gradient:
            if i - 1 not in plan.gradient:
                clear_autocast_cache()
            output = with_gradient(x, i)
            gradient_steps.append((i, x.detach(), output))
        else:
            free = no_grad_denoise if no_grad_denoise is not None and i not in plan.random else denoise
            with torch.no_grad():
                output = free(x, i)
        before, last = x, i == plan.stop
        if last and plan.read == "prediction":
            x = schedule.clean(x, output, i)
        else:  # plain arithmetic: gradient of earlier steps passes through it
            x = schedule.step(x, output, i, noise() if schedule.new_noise_scales[i] else None)
        if i in plan.random:
            visits.append(Visit(i, before, output, x))
    if not plan.copies:
        return Rollout(x, gradient_steps, visits)
    results = [x]
    for _ in range(plan.copies):
        renoised = schedule.renoise(x.detach(), noise(), plan.stop)
        output = with_gradient(renoised, plan.stop)
        gradient_steps.append((plan.stop, renoised.detach(), output))
        results.append(schedule.clean(renoised, output, plan.stop))
    return Rollout(torch.cat(results), gradient_steps)
