"""The loss of one microstep: rewards of images, and regularizing terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reward_core.runs.cuda import upload

from .captioned_images import CaptionedImages
from .config import TrainConfig
from .dtypes import DTYPES
from .errors import ConfigError
from .families import Family, Guidance
from .losses import denoising_loss, distance
from .no_grad_copy import NoGradCopy
from .noise_schedule import NoiseSchedule, training_levels
from .prompts import DataOrder
from .rewards import Rewards
from .rollout import Denoise, Rollout, SampleNoise, rollout
from .strategies import RolloutPlan
from .trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

# Purposes of noise: the same index draws different noise for each.
TRAINING, PRETRAINING, VALIDATION = 0, 1, 2


@dataclass
class MicroStep:
    """The loss of a micro-batch with its graph, and the values to log.

    Attributes:
        loss: scalar, the sum of all terms.
        loss_terms: name -> detached scalar of each term: reward, distance, pretraining.
        rewards: name -> detached rewards (N,).
        pixels: images (N, 3, H, W); their gradient is retained to find saturated rewards.
    """

    loss: Tensor
    loss_terms: dict[str, Tensor]
    rewards: dict[str, Tensor]
    pixels: Tensor


class Objective:
    """Generates images and computes their loss. Updates no weights.

    Attributes:
        height: image height in pixels.
        width: image width in pixels.
    """

    def __init__(
        self,
        config: TrainConfig,
        family: Family,
        rewards: Rewards,
        trainable: Trainable,
        accelerator: Accelerator,
        captioned: CaptionedImages | None = None,
        no_grad_copy: NoGradCopy | None = None,
    ):
        self.config, self.family, self.rewards = config, family, rewards
        self.trainable, self.accelerator, self.captioned = trainable, accelerator, captioned
        self.no_grad_copy = no_grad_copy
        self.decode_dtype = DTYPES[config.rollout.decode_dtype]
        if captioned is not None:
            self.levels = torch.stack(training_levels(family.pipeline.scheduler))  # (3, T), on the CPU
        self.height, self.width = image_size(config, family)
        self.schedule = self._schedule(config.rollout.steps)
        self.guidance = Guidance(config.rollout.guidance_scale, config.rollout.negative_gradient)

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
        pixels = self.family.decode(result.latents, recompute, self.decode_dtype)
        if pixels.requires_grad:
            pixels.retain_grad()
        prompts = list(prompts) * (1 + plan.copies)
        losses, rewards = self.rewards.loss(pixels, prompts)
        rewards |= self.rewards.held_out_rewards(pixels.detach(), prompts)
        loss = config.loss.reward_scale * losses.mean()
        terms = {"reward": loss.detach()}
        if config.loss.distance_weight:
            distance_loss = config.loss.distance_weight * self._distance(result, denoise)
            loss, terms["distance"] = loss + distance_loss, distance_loss.detach()
        if self.captioned is not None:
            pretraining_loss = self._pretraining_loss(self.captioned, step, pretraining)
            pretraining_loss = config.loss.pretraining_weight * pretraining_loss
            loss, terms["pretraining"] = loss + pretraining_loss, pretraining_loss.detach()
        return MicroStep(loss, terms, rewards, pixels)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 0) -> Tensor:
        """Generate images without gradient, with the sampler and guidance of training.

        Args:
            prompts: B prompts.
            seeds: B seeds of the noise.
            steps: denoising steps; 0: as many as in training.

        Returns:
            Images (B, 3, H, W) in [0, 1].
        """
        schedule = self._schedule(steps) if steps else self.schedule
        plan = RolloutPlan(len(schedule) - 1, (), read="latents")
        with self.accelerator.autocast():
            result, _ = self._rollout(prompts, SampleNoise(0, 0, seeds, VALIDATION), plan, schedule)
        return self.family.decode(result.latents)

    def _schedule(self, steps: int) -> NoiseSchedule:
        return self.family.schedule(steps, self.config.rollout.sampler, self.height, self.width)

    def _rollout(
        self,
        prompts: Sequence[str],
        noise: SampleNoise,
        plan: RolloutPlan,
        schedule: NoiseSchedule,
        no_grad_copy: NoGradCopy | None = None,
    ) -> tuple[Rollout, Denoise]:
        family, config, device = self.family, self.config.rollout, self.accelerator.device
        condition = family.encode(prompts, config.negative_prompt if self.guidance.scale != 1 else None)
        shape = family.latent_shape(self.height, self.width)

        def denoise(x: Tensor, i: int) -> Tensor:
            return family.denoise(x, schedule.timesteps[i], condition, self.guidance)

        def denoise_with_copy(x: Tensor, i: int) -> Tensor:
            assert no_grad_copy is not None
            return no_grad_copy.denoise(x, schedule.timesteps[i], condition, self.guidance)

        def draw() -> Tensor:
            return noise(shape, device)

        recompute = config.gradient_checkpointing
        if self.config.model.gradient_checkpointing and sum(plan.cost()[1:]) == 1:
            recompute = False  # the denoiser recomputes its blocks; doing both costs one more pass
        no_grad_denoise = None if no_grad_copy is None else denoise_with_copy
        result = rollout(denoise, schedule, plan, draw(), draw, recompute, no_grad_denoise)
        return result, denoise

    def _distance(self, result: Rollout, denoise: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Return the mean distance to the base model's denoiser over the gradient steps."""
        distances = []
        for i, x, output in result.gradient_steps:
            with torch.no_grad(), self.trainable.reference(), self.accelerator.autocast():
                reference = denoise(x, i)
            distances.append(distance(self.schedule, i, x, output, reference, self.config.loss.distance))
        return torch.stack(distances).mean()

    def _pretraining_loss(self, captioned: CaptionedImages, step: int, indices: Sequence[int]) -> Tensor:
        family, device, seed = self.family, self.accelerator.device, self.config.run.seed
        order = DataOrder(len(captioned), seed)
        pixels, captions = captioned.batch([order[p] for p in indices], self.height, self.width)
        noise = SampleNoise(seed, step, indices, PRETRAINING)
        shape = family.latent_shape(self.height, self.width)
        x0 = family.encode_pixels(upload(pixels, device), noise(shape, device))
        drawn = (noise.uniform() * self.levels.shape[1]).long()
        timesteps, alpha, sigma = upload(self.levels[:, drawn], device)
        added = noise(shape, device)
        x = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * added
        with self.accelerator.autocast():
            output = family.denoise(x, timesteps, family.encode(captions), Guidance())
        return denoising_loss(x0, added, output, alpha, sigma, self.schedule.prediction)


def image_size(config: TrainConfig, family: Family) -> tuple[int, int]:
    """Return (height, width) in pixels from the settings, or the model's native size.

    Raises:
        ConfigError: a side is not a multiple of the model's ``size_multiple``.
    """
    height = config.rollout.height or family.default_size
    width = config.rollout.width or height
    multiple = family.size_multiple
    if height % multiple or width % multiple:
        raise ConfigError(
            f"Cannot train on images of {height} x {width} pixels: rollout.height and rollout.width must be "
            f"multiples of {multiple}."
        )
    return height, width
