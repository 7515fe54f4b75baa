"""What all objectives share: generated images, and the terms of the loss that regularize."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reward_core.runs.cuda import upload

from ..config import TrainConfig
from ..data.captioned_images import CaptionedImages
from ..data.prompts import Batches, DataOrder
from ..denoising.noise_schedule import NoiseSchedule, training_levels
from ..denoising.rollout import Rollout, SampleNoise, rollout
from ..denoising.rollout_plan import RolloutPlan, whole_rollout
from ..dtypes import DTYPES
from ..families import Condition, Family, Guidance
from ..families.decoding import recompute_in_backward
from ..fast_steps.gradient_graphs import GradientGraphs, recorded_parts
from ..fast_steps.half_weights import HalfWeights
from ..fast_steps.no_grad_copy import NoGradCopy
from ..rewards import Rewards
from ..trainable import Trainable
from .losses import denoising_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

# Purposes of noise: the same index draws different noise for each.
TRAINING, PRETRAINING, VALIDATION, LEVELS, STEPS = 0, 1, 2, 3, 4


@dataclass
class MicroStep:
    """The loss of a micro-batch with its graph, and the values to log.

    Attributes:
        loss: scalar, the sum of all terms.
        loss_terms: name -> detached scalar of each term: reward, distance, pretraining.
        rewards: name -> detached rewards (N,); empty if the step's statistics have them.
        pixels: images (N, 3, H, W); their gradient is retained to find saturated rewards. None if the
            reward's gradient is not used.
        values: name -> detached scalar, logged under that name.
    """

    loss: Tensor
    loss_terms: dict[str, Tensor]
    rewards: dict[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardStatistics:
    """One reward over all images of a step: mean and standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True)
class StepStatistics:
    """What an objective knows about the images of a whole step, the same on every rank.

    Attributes:
        rewards: reward name -> statistics.
        values: name -> value, logged under that name.
        zero_gradient: share of images that the policy loss does not move.
        finite: whether any image can be trained on.
    """

    rewards: dict[str, RewardStatistics]
    values: dict[str, float]
    zero_gradient: float
    finite: bool


class Objective(ABC):
    """Generates images and computes their loss. Updates no weights but those that generate images.

    Attributes:
        height: image height in pixels.
        width: image width in pixels.
        microsteps_per_step: number of losses that ``microsteps`` yields.
        statistics: statistics of the images of the current step; None: they follow from the microsteps.
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
        self.decode_dtype = DTYPES[config.rollout.decode_dtype or ""]
        self.half_weights = self._make_half_weights()
        self.gradient_graphs = self._make_gradient_graphs()
        if captioned is not None:
            self.levels = torch.stack(training_levels(family.pipeline.scheduler))  # (3, T), on the CPU
        self.height, self.width = family.image_size(config.rollout.height, config.rollout.width)
        self.schedule = self._schedule(config.rollout.steps)
        self.guidance = Guidance(config.rollout.guidance_scale, config.rollout.negative_gradient)
        self.microsteps_per_step = config.run.accumulation
        self.statistics: StepStatistics | None = None

    def _make_half_weights(self) -> HalfWeights | None:
        """Return the weights for gradient steps of a denoiser whose weights are all trained, or None.

        A sum of gradients in half precision would round once more, so each weight must get one gradient.
        """
        config, trainable, copy = self.config, self.trainable, self.no_grad_copy
        strategy, half = config.strategy, DTYPES[config.run.mixed_precision]
        if trainable.is_lora or copy is None or copy.dtype != half or config.model.compile:
            return None
        if not strategy.needs_reward_gradient or not strategy.has_one_gradient_step:
            return None
        parameters = dict(zip(trainable.names, trainable.parameters))
        return HalfWeights(copy, parameters, lambda: self.keeps_half_gradients)

    @property
    def keeps_half_gradients(self) -> bool:
        """Whether gradients in half precision stay so until the optimizer takes them: less memory.

        Those that are added, exchanged between ranks or scaled need float32.
        """
        plain = self.accelerator.num_processes == 1 and self.accelerator.scaler is None
        once = self.microsteps_per_step == 1 and self.captioned is None
        return self.half_weights is not None and plain and once

    def _make_gradient_graphs(self) -> GradientGraphs | None:
        """Return the graphs of a training step, or None; raise ConfigError if a setting does not fit."""
        config, weights = self.config, self.half_weights
        parts = recorded_parts(config, self.family)
        if not parts:
            return None
        parameters = dict(zip(self.trainable.names, self.trainable.parameters))
        graphs = GradientGraphs(
            self.family if weights is None else weights.family,
            parameters if weights is None else weights.parameters,
            DTYPES[config.run.mixed_precision],
            self.decode_dtype,
            parts,
            config.run.tf32,
            self.no_grad_copy,
        )
        graphs.record(self.rewards.trained)
        return graphs

    @abstractmethod
    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        """Yield the losses of an optimizer step, one at a time: the caller takes each gradient at once."""

    def finish(self, step: int) -> None:  # noqa: B027 - most objectives have nothing to do
        """End an optimizer step after the weights were updated or the step was skipped."""

    def numbers(self) -> dict[str, Any]:
        """Return what a checkpoint must store of this objective, for JSON."""
        return {}

    def load_numbers(self, numbers: dict[str, Any]) -> None:  # noqa: B027
        """Restore what ``numbers`` returned."""

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
        plan = whole_rollout(len(schedule))
        with self.accelerator.autocast():
            condition = self._encode(prompts, self.guidance)
            noise = SampleNoise(0, 0, seeds, VALIDATION)
            result = self._rollout(condition, self.guidance, noise, plan, schedule)
        return self.family.decode(result.latents)

    def _schedule(self, steps: int) -> NoiseSchedule:
        return self.family.schedule(steps, self.config.rollout.sampler, self.height, self.width)

    def _encode(self, prompts: Sequence[str], guidance: Guidance) -> Condition:
        negative = self.config.rollout.negative_prompt if guidance.scale != 1 else None
        with self.family.encoding():
            return self.family.encode(prompts, negative)

    def _rollout(
        self,
        condition: Condition,
        guidance: Guidance,
        noise: SampleNoise,
        plan: RolloutPlan,
        schedule: NoiseSchedule,
        no_grad_copy: NoGradCopy | None = None,
        start: Tensor | None = None,
    ) -> Rollout:
        """Generate latents from ``start``, or from the first draw of ``noise`` if it is None."""
        family, device = self.family, self.accelerator.device
        shape = family.latent_shape(self.height, self.width)
        _, passes = plan.cost()

        def denoise(x: Tensor, i: int) -> Tensor:
            return family.denoise(x, schedule.timesteps[i], condition, guidance)

        def denoise_with_copy(x: Tensor, i: int) -> Tensor:
            assert no_grad_copy is not None
            return no_grad_copy.denoise(x, schedule.timesteps[i], condition, guidance)

        def denoise_with_gradient(x: Tensor, i: int) -> Tensor:
            return self._denoise_with_gradient(x, schedule.timesteps[i], condition, guidance, passes)

        def draw() -> Tensor:
            return noise(shape, device)

        no_grad_denoise = None if no_grad_copy is None else denoise_with_copy
        start = draw() if start is None else start
        return rollout(denoise, schedule, plan, start, draw, no_grad_denoise, denoise_with_gradient)

    def _denoise_with_gradient(
        self,
        x: Tensor,
        timestep: float | Tensor,
        condition: Condition,
        guidance: Guidance,
        passes: int = 1,
    ) -> Tensor:
        """Run the trained denoiser in a gradient step; return its output (B, C, h, w), float32.

        Args:
            x: (B, C, h, w) noisy latents.
            timestep: one number or (B,) numbers.
            condition: encoded prompts.
            guidance: guidance of the step.
            passes: number of gradient steps whose activations are kept at the same time.
        """
        config, arguments = self.config, (x, timestep, condition, guidance)
        trained = self.family if self.half_weights is None else self.half_weights.family
        recompute = config.rollout.gradient_checkpointing
        if config.model.gradient_checkpointing and passes == 1:
            recompute = False  # the denoiser recomputes its blocks; doing both costs one more pass

        def launched() -> Tensor:
            if recompute:
                return recompute_in_backward(trained.denoise, *arguments)
            return trained.denoise(*arguments)

        graphs = self.gradient_graphs
        return launched() if graphs is None else graphs.denoise(launched, *arguments)

    def _reward_term(self, loss: Tensor) -> Tensor:
        """Return the reward loss times its scale."""
        scale = self.config.loss.reward_scale
        assert scale is not None  # check_config has set it
        return scale * loss

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
            output = family.denoise(x, timesteps, self._encode(captions, Guidance()), Guidance())
        return denoising_loss(x0, added, output, alpha, sigma, self.schedule.prediction)
