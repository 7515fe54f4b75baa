"""Training with the reward's gradient: the strategies refl, draft, draft-lv, alignprop and drtune."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config.rollout_plans import plan_rollout
from ..data.prompts import Batches
from ..denoising.rollout import SampleNoise
from ..denoising.rollout_plan import RolloutPlan
from ..families import Condition
from .losses import distance
from .objective import TRAINING, MicroStep, Objective


@dataclass(frozen=True)
class GradientPass:
    """A pass of the denoiser with gradient, for the distance to the base model.

    Attributes:
        x: (B, C, h, w) noisy latents, without gradient.
        timestep: their timestep, one number or (B,) numbers.
        alpha: factor of the clean latents in ``x``, a number or (B, 1, 1, 1).
        sigma: factor of the noise, likewise.
        output: output of the denoiser, shaped as ``x``.
    """

    x: Tensor
    timestep: float | Tensor
    alpha: Any
    sigma: Any
    output: Tensor


class GradientObjective(Objective):
    """Backpropagates rewards of generated images into the gradient steps of their rollout."""

    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        config = self.config
        plan = plan_rollout(config.strategy, config.rollout.steps, random.Random(f"{config.run.seed} {step}"))
        if self.no_grad_copy is not None:
            self.no_grad_copy.refresh()
        for micro in range(config.run.accumulation):
            indices = batches.indices(step, micro)
            pretraining = batches.indices(step, micro, config.loss.pretraining_batch_size)
            yield self.loss(step, indices, batches.prompts_of(indices), plan, pretraining)

    def loss(
        self,
        step: int,
        indices: Sequence[int],
        prompts: Sequence[str],
        plan: RolloutPlan,
        pretraining: Sequence[int],
    ) -> MicroStep:
        """Compute the loss of one microstep.

        Args:
            step: number of the optimizer step; noise depends on it and on ``indices``.
            indices: B indices into the endless sequence of samples.
            prompts: B prompts.
            plan: plan of the rollout, the same on every rank.
            pretraining: indices into the endless sequence of captioned images; unused without them.
        """
        schedule = self.schedule
        noise = SampleNoise(self.config.run.seed, step, indices, TRAINING)
        with self.accelerator.autocast():
            condition = self._encode(prompts, self.guidance)
            result = self._rollout(condition, self.guidance, noise, plan, schedule, self.no_grad_copy)
        pixels = self._decode(result.latents)
        prompts = list(prompts) * (1 + plan.copies)
        losses, rewards = self.rewards.loss(pixels, prompts)
        rewards |= self.rewards.held_out_rewards(pixels.detach(), prompts)
        loss = self._reward_term(losses.mean())
        microstep = MicroStep(loss, {"reward": loss.detach()}, rewards, pixels)
        passes = [
            GradientPass(x, schedule.timesteps[i], schedule.alphas[i], schedule.sigmas[i], output)
            for i, x, output in result.gradient_steps
        ]
        self._add_distance(microstep, passes, condition)
        self._add_pretraining(microstep, step, pretraining)
        return microstep

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode clean latents to pixels (B, 3, H, W) that retain their gradient."""
        recompute = self.config.rollout.gradient_checkpointing
        if self.gradient_graphs is not None:
            pixels = self.gradient_graphs.decode(latents, recompute)
        else:
            pixels = self.family.decode(latents, recompute, self.decode_dtype)
        if pixels.requires_grad:
            pixels.retain_grad()
        return pixels

    def _add_distance(
        self, microstep: MicroStep, passes: Sequence[GradientPass], condition: Condition
    ) -> None:
        """Add the mean distance to the base model's denoiser over the passes, if it has a weight."""
        weight, space = self.config.loss.distance_weight, self.config.loss.distance
        if not weight:
            return
        distances = []
        for p in passes:
            with torch.no_grad(), self.trainable.reference(), self.accelerator.autocast():
                reference = self.family.denoise(p.x, p.timestep, condition, self.guidance)
            levels = p.alpha, p.sigma
            distances.append(distance(p.x, p.output, reference, *levels, self.schedule.prediction, space))
        term = weight * torch.stack(distances).mean()
        microstep.loss = microstep.loss + term
        microstep.loss_terms["distance"] = term.detach()

    def _add_pretraining(
        self, microstep: MicroStep, step: int, indices: Sequence[int], factor: float = 1.0
    ) -> None:
        """Add the denoising loss on captioned images times a factor, if there are any."""
        if self.captioned is None:
            return
        term = microstep.loss.new_zeros(())
        if factor:
            weight = factor * self.config.loss.pretraining_weight
            term = weight * self._pretraining_loss(self.captioned, step, indices)
        microstep.loss = microstep.loss + term
        microstep.loss_terms["pretraining"] = term.detach()
