"""Training with the reward's gradient: the strategies refl, draft, draft-lv, alignprop and drtune."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .losses import distance
from .objective import TRAINING, MicroStep, Objective
from .prompts import Batches
from .rollout import Denoise, Rollout, SampleNoise
from .rollout_plan import RolloutPlan


class GradientObjective(Objective):
    """Backpropagates rewards of generated images into the gradient steps of their rollout."""

    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        config = self.config
        plan = config.strategy.plan(config.rollout.steps, random.Random(f"{config.run.seed} {step}"))
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
        config = self.config
        noise = SampleNoise(config.run.seed, step, indices, TRAINING)
        with self.accelerator.autocast():
            result, denoise = self._rollout(prompts, noise, plan, self.schedule, self.no_grad_copy)
        recompute = config.rollout.gradient_checkpointing
        if self.gradient_graphs is not None:
            pixels = self.gradient_graphs.decode(result.latents, recompute)
        else:
            pixels = self.family.decode(result.latents, recompute, self.decode_dtype)
        if pixels.requires_grad:
            pixels.retain_grad()
        prompts = list(prompts) * (1 + plan.copies)
        losses, rewards = self.rewards.loss(pixels, prompts)
        rewards |= self.rewards.held_out_rewards(pixels.detach(), prompts)
        loss = self._reward_term(losses.mean())
        terms = {"reward": loss.detach()}
        if config.loss.distance_weight:
            distance_loss = config.loss.distance_weight * self._distance(result, denoise)
            loss, terms["distance"] = loss + distance_loss, distance_loss.detach()
        if self.captioned is not None:
            pretraining_loss = self._pretraining_loss(self.captioned, step, pretraining)
            pretraining_loss = config.loss.pretraining_weight * pretraining_loss
            loss, terms["pretraining"] = loss + pretraining_loss, pretraining_loss.detach()
        return MicroStep(loss, terms, rewards, pixels)

    def _distance(self, result: Rollout, denoise: Denoise) -> Tensor:
        """Return the mean distance to the base model's denoiser over the gradient steps."""
        schedule, distances = self.schedule, []
        for i, x, output in result.gradient_steps:
            with torch.no_grad(), self.trainable.reference(), self.accelerator.autocast():
                reference = denoise(x, i)
            levels = schedule.alphas[i], schedule.sigmas[i]
            space = self.config.loss.distance
            distances.append(distance(x, output, reference, *levels, schedule.prediction, space))
        return torch.stack(distances).mean()
