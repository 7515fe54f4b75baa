"""The loss of one microstep: images made with gradient, judged, held near where they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .captioned_images import CaptionedImages
from .config import TrainConfig
from .errors import ConfigError
from .families import Family, Guidance
from .losses import denoising_loss, distance
from .noise_schedule import NoiseSchedule, training_levels
from .prompts import DataOrder
from .rewards import Rewards
from .rollout import Denoise, Rollout, SampleNoise, rollout
from .strategies import RolloutPlan
from .trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

# Purposes of noise, so that the same place draws differently for each.
TRAINING, PRETRAINING, VALIDATION = 0, 1, 2


@dataclass
class MicroStep:
    """The loss of a micro-batch with its graph, and what else is logged.

    Attributes:
        loss: () the sum of all terms.
        loss_terms: name -> () each term, detached: reward, distance, pretraining.
        rewards: name -> (N,) detached.
        pixels: (N, 3, H, W); keeps its gradient, which says which samples still move.
    """

    loss: Tensor
    loss_terms: dict[str, Tensor]
    rewards: dict[str, Tensor]
    pixels: Tensor


class Objective:
    """Makes images with a family's denoiser and turns them into a loss. Changes nothing.

    Attributes:
        height: of the images, pixels.
        width: of the images, pixels.
    """

    def __init__(
        self,
        config: TrainConfig,
        family: Family,
        rewards: Rewards,
        trainable: Trainable,
        accelerator: Accelerator,
        captioned: CaptionedImages | None = None,
    ):
        self.config, self.family, self.rewards = config, family, rewards
        self.trainable, self.accelerator, self.captioned = trainable, accelerator, captioned
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
        """The loss of one microstep.

        Args:
            step: number of the optimizer step; with ``indices`` it decides the noise.
            indices: B places in the endless sequence of samples.
            prompts: B prompts.
            plan: of the rollout, the same on every rank.
            pretraining: places in the endless sequence of captioned images, where there are any.
        """
        config = self.config
        noise = SampleNoise(config.run.seed, step, indices, TRAINING)
        with self.accelerator.autocast():
            result, denoise = self._rollout(prompts, noise, plan, self.schedule)
        pixels = self.family.decode(result.latents, config.rollout.gradient_checkpointing)
        if pixels.requires_grad:
            pixels.retain_grad()
        prompts = list(prompts) * (1 + plan.copies)
        losses, rewards = self.rewards.loss(pixels, prompts)
        rewards |= self.rewards.held_out_rewards(pixels.detach(), prompts)
        loss = config.loss.reward_scale * losses.mean()
        terms = {"reward": loss.detach()}
        if config.loss.distance_weight:
            far = config.loss.distance_weight * self._distance(result, denoise)
            loss, terms["distance"] = loss + far, far.detach()
        if self.captioned is not None:
            ordinary = self._pretraining_loss(self.captioned, step, pretraining)
            ordinary = config.loss.pretraining_weight * ordinary
            loss, terms["pretraining"] = loss + ordinary, ordinary.detach()
        return MicroStep(loss, terms, rewards, pixels)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 0) -> Tensor:
        """Images as in training: B prompts, B seeds -> (B, 3, H, W) in [0, 1]. 0 steps: as in training."""
        schedule = self._schedule(steps) if steps else self.schedule
        plan = RolloutPlan(len(schedule) - 1, (), read="latents")
        with self.accelerator.autocast():
            result, _ = self._rollout(prompts, SampleNoise(0, 0, seeds, VALIDATION), plan, schedule)
        return self.family.decode(result.latents)

    def _schedule(self, steps: int) -> NoiseSchedule:
        return self.family.schedule(steps, self.config.rollout.sampler, self.height, self.width)

    def _rollout(
        self, prompts: Sequence[str], noise: SampleNoise, plan: RolloutPlan, schedule: NoiseSchedule
    ) -> tuple[Rollout, Denoise]:
        family, config, device = self.family, self.config.rollout, self.accelerator.device
        condition = family.encode(prompts, config.negative_prompt if self.guidance.scale != 1 else None)
        shape = family.latent_shape(self.height, self.width)

        def denoise(x: Tensor, i: int) -> Tensor:
            return family.denoise(x, schedule.timesteps[i], condition, self.guidance)

        def draw() -> Tensor:
            return noise(shape, device)

        return rollout(denoise, schedule, plan, draw(), draw, config.gradient_checkpointing), denoise

    def _distance(self, result: Rollout, denoise: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Mean over the steps with gradient of the distance to the denoiser that training started from."""
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
        x0 = family.encode_pixels(pixels.to(device), noise(shape, device))
        timesteps, alphas, sigmas = (level.to(device) for level in training_levels(family.pipeline.scheduler))
        levels = (noise.uniform() * len(timesteps)).long().to(device)
        alpha, sigma = alphas[levels], sigmas[levels]
        added = noise(shape, device)
        x = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * added
        with self.accelerator.autocast():
            output = family.denoise(x, timesteps[levels], family.encode(captions), Guidance())
        return denoising_loss(x0, added, output, alpha, sigma, self.schedule.prediction)


def image_size(config: TrainConfig, family: Family) -> tuple[int, int]:
    """(height, width) in pixels: the settings', or what the model was made for.

    Raises:
        ConfigError: sides that its latents cannot have.
    """
    height = config.rollout.height or family.default_size
    width = config.rollout.width or height
    multiple = family.size_multiple
    if height % multiple or width % multiple:
        raise ConfigError(f"rollout: {height} x {width} pixels, but sides must be multiples of {multiple}")
    return height, width
