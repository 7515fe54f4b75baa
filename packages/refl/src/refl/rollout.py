"""One rollout: noise to clean latents, with gradient where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .noise_schedule import NoiseSchedule
from .strategies import RolloutPlan

Denoise = Callable[[Tensor, int], Tensor]
"""(latents (B, ...), step index) -> the denoiser's output, shaped as the latents."""


class SampleNoise:
    """Standard normal numbers for a batch, each sample from a generator of its own.

    A sample's numbers depend on (seed, step, place in the global batch) alone, so one process with a batch
    of four and two with batches of two draw the same. Drawn on the CPU: the same on every device.
    """

    def __init__(self, seed: int, step: int, indices: Sequence[int], purpose: int = 0):
        self.generators = [
            torch.Generator().manual_seed(_mix_seeds(seed, step, index, purpose)) for index in indices
        ]

    def __call__(self, shape: Sequence[int], device: torch.device | str, dtype=torch.float32) -> Tensor:
        """(B, *shape) numbers; the next ones at each call."""
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(draws).to(device, dtype)

    def uniform(self) -> Tensor:
        """(B,) numbers in [0, 1)."""
        return torch.stack([torch.rand((), generator=generator) for generator in self.generators])


def _mix_seeds(*numbers: int) -> int:
    """A 63-bit seed from several numbers (SplitMix64's finaliser over each)."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def clear_autocast_cache() -> None:
    """To call before gradient is wanted after work without.

    Up to torch 2.9, autocast keeps the weights that it cast under no_grad, which have no graph, and gives
    them to the next pass too: its gradient would never reach the weights (pytorch issue 112583).
    """
    torch.clear_autocast_cache()


@dataclass
class Rollout:
    """What came of a rollout.

    Attributes:
        latents: (B, ...) clean latents; ((1 + copies) * B, ...), the plain ones first, where the plan asks
            for copies.
        gradient_steps: for each step with gradient (index, the latents it was given, detached, its output).
    """

    latents: Tensor
    gradient_steps: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)


def rollout(
    denoise: Denoise,
    schedule: NoiseSchedule,
    plan: RolloutPlan,
    latents: Tensor,
    noise: Callable[[], Tensor],
    gradient_checkpointing: bool = True,
) -> Rollout:
    """Denoise from the first step to ``plan.stop``.

    Args:
        denoise: the guided denoiser.
        schedule: levels and arithmetic.
        plan: where gradient goes.
        latents: (B, ...) standard normal noise.
        noise: gives new standard normal noise shaped as the latents, for random samplers and copies.
        gradient_checkpointing: keep only each gradient step's input and compute the denoiser again in the
        backward pass.
    """

    def with_gradient(x: Tensor, i: int) -> Tensor:
        x = x.detach() if plan.detach_input else x
        if not gradient_checkpointing or not torch.is_grad_enabled():
            return denoise(x, i)
        return checkpoint(denoise, x, i, use_reentrant=False, preserve_rng_state=False)

    x = latents * schedule.initial_scale
    gradient_steps: list[tuple[int, Tensor, Tensor]] = []
    for i in range(plan.stop + 1):
        if i in plan.gradient:
            if i - 1 not in plan.gradient:
                clear_autocast_cache()
            output = with_gradient(x, i)
            gradient_steps.append((i, x.detach(), output))
        else:
            with torch.no_grad():
                output = denoise(x, i)
        last = i == plan.stop
        if last and plan.read == "prediction":
            x = schedule.clean(x, output, i)
        else:  # plain arithmetic: gradient of earlier steps passes, that of this denoiser only if it has one
            x = schedule.step(x, output, i, noise() if schedule.new_noise_scales[i] else None)
    if not plan.copies:
        return Rollout(x, gradient_steps)
    results = [x]
    for _ in range(plan.copies):
        renoised = schedule.renoise(x.detach(), noise(), plan.stop)
        output = with_gradient(renoised, plan.stop)
        gradient_steps.append((plan.stop, renoised.detach(), output))
        results.append(schedule.clean(renoised, output, plan.stop))
    return Rollout(torch.cat(results), gradient_steps)
