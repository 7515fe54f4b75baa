"""Training with a reward relative to words before the prompt: SRPO (Shen et al. 2025, arXiv 2509.06942).

Images are generated without gradient and noised again with the noise that they started from. One step of
the denoiser with gradient moves them to a neighboring noise level, where the known noise gives the clean
latents (see refl.denoising.direct_align). Their reward is compared between two prompts: one with words for
what is wanted before it, and one with words for what is not. The denoise branch steps down to a drawn
level. The inversion branch steps up to the same level, with the words exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_core.runs.cuda import upload

from ..data.prompts import Batches
from ..denoising.direct_align import LevelRange, recovered
from ..denoising.rollout import SampleNoise, clear_autocast_cache
from ..denoising.rollout_plan import whole_rollout
from ..families import Condition, Guidance
from .gradient_objective import GradientObjective, GradientPass
from .objective import LEVELS, TRAINING, MicroStep


@dataclass(frozen=True)
class GeneratedImages:
    """The images of one microstep.

    Attributes:
        prompts: B prompts.
        condition: the encoded prompts.
        latents: (B, C, h, w) clean latents.
        noise: standard normal noise that they started from, shaped as ``latents``.
        share: (B,) uniform numbers that choose the noise levels.
    """

    prompts: list[str]
    condition: Condition
    latents: Tensor
    noise: Tensor
    share: Tensor


class SRPOObjective(GradientObjective):
    """Trains a step of the denoiser at noised images by a reward relative to words before the prompt.

    Each image gets a loss of the denoise branch and, unless it is switched off, one of the inversion branch.

    Raises:
        ConfigError: no clean image can be read from the noise levels.
    """

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self.strategy = self.config.strategy
        first, last = self.strategy.bounds(len(self.schedule))
        scheduler = self.family.pipeline.scheduler
        self.range = LevelRange(self.schedule, scheduler, first, last, self.strategy.move)
        self.microsteps_per_step = self.config.run.accumulation * self.strategy.branches

    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        config, branches = self.config, self.strategy.branches
        if self.no_grad_copy is not None:
            self.no_grad_copy.refresh()
        for micro in range(config.run.accumulation):
            indices = batches.indices(step, micro)
            pretraining = batches.indices(step, micro, config.loss.pretraining_batch_size)
            images = self._generate(step, indices, batches.prompts_of(indices))
            for branch in range(branches):
                microstep = self._branch_loss(step, images, is_inversion=branch == 1)
                # The step averages over the branches, and this loss is computed once.
                self._add_pretraining(microstep, step, pretraining, 0.0 if branch else float(branches))
                yield microstep
                del microstep  # frees its images and graph before the next one

    @torch.no_grad()
    def _generate(self, step: int, indices: Sequence[int], prompts: Sequence[str]) -> GeneratedImages:
        seed, device = self.config.run.seed, self.accelerator.device
        noise = SampleNoise(seed, step, indices, TRAINING)
        start = noise(self.family.latent_shape(self.height, self.width), device)
        plan = whole_rollout(len(self.schedule))
        with self.accelerator.autocast():
            condition = self._encode(prompts, self.guidance)
            used = condition, self.guidance
            if not self.strategy.guided_rollout:
                used = Condition(condition.positive), Guidance()
            result = self._rollout(*used, noise, plan, self.schedule, self.no_grad_copy, start)
        share = SampleNoise(seed, step, indices, LEVELS).uniform()
        return GeneratedImages(list(prompts), condition, result.latents, start, share)

    def _branch_loss(self, step: int, images: GeneratedImages, is_inversion: bool) -> MicroStep:
        """Compute the loss of a branch, the distance included.

        Args:
            step: number of the optimizer step; the words depend on it.
            images: the images.
            is_inversion: whether it is the inversion branch.
        """
        strategy, prediction = self.strategy, self.schedule.prediction
        move = self.range.draw(images.share, up=is_inversion)
        start, end, position = (
            upload(t, self.accelerator.device) for t in (move.start, move.end, move.position)
        )
        timesteps, alpha, sigma = start[0], *start[1:].view(2, -1, 1, 1, 1)
        x = alpha * images.latents + sigma * images.noise
        clear_autocast_cache()
        with self.accelerator.autocast():
            output = self._denoise_with_gradient(x, timesteps, images.condition, self.guidance)
        x0 = recovered(x, output, images.noise, start[1:], end[1:], prediction)
        pixels = self._decode(x0)
        noisiest, cleanest = strategy.discount_inversion if is_inversion else strategy.discount_denoise
        extra = noisiest + (cleanest - noisiest) * position
        losses, values, rewards = self._relative_loss(step, pixels, images.prompts, extra, is_inversion)
        loss = self._reward_term(losses.mean())
        microstep = MicroStep(loss, {"reward": loss.detach()}, rewards, pixels, values)
        self._add_distance(microstep, [GradientPass(x, timesteps, alpha, sigma, output)], images.condition)
        return microstep

    def _relative_loss(
        self, step: int, pixels: Tensor, prompts: list[str], extra: Tensor, is_inversion: bool
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return losses (B,), values to log, and rewards (B,) without gradient.

        Args:
            step: number of the optimizer step.
            pixels: (B, 3, H, W) images.
            prompts: their prompts.
            extra: (B,) weight of the preferred prompt beyond 1, k in the paper.
            is_inversion: whether the words are exchanged.
        """
        words = self.strategy.words(step)
        wanted, unwanted = (
            self.rewards.trained_rewards(pixels, [added + prompt for prompt in prompts]) for added in words
        )
        plus, minus = (unwanted, wanted) if is_inversion else (wanted, unwanted)
        losses = self.rewards.loss_of({name: (1 + extra) * plus[name] - minus[name] for name in plus})
        values = {f"srpo/{name}": (wanted[name] - unwanted[name]).detach().mean() for name in wanted}
        rewards = {name: value.detach() for name, value in wanted.items()}
        return losses, values, rewards | self.rewards.held_out_rewards(pixels.detach(), prompts)
