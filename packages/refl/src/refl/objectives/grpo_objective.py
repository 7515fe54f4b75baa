"""Training on the probabilities of random steps: Flow-GRPO (Liu et al. 2025, arXiv 2505.05470).

The old weights generate groups of images with noise added in a window of steps, and without noise in the
others. The loss makes these random steps of better images more probable and those of worse ones less, up to
a limit (``strategy.clip``). With all steps but the last in the window and DDIM's noise, it is DDPO (Black et
al. 2023) with the advantages of groups.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..config import TrainConfig
from ..config.rollout_plans import plan_rollout
from ..denoising.noise_schedule import NO_SIGNAL, NoiseSchedule
from ..denoising.random_steps import log_prob, random_schedule
from ..denoising.rollout import Rollout, SampleNoise, Visit, clear_autocast_cache
from ..errors import ConfigError
from ..families import Condition, Family
from .losses import grpo_loss
from .objective import STEPS, TRAINING, MicroStep
from .policy_objective import Part, PolicyObjective, check_signal


class GRPOObjective(PolicyObjective):
    """Trains the random steps of generated images according to their rewards.

    Raises:
        ConfigError: the guidance, sampler or noise does not fit the strategy or the model.
        ModelError: a noise level of the model has no signal.
    """

    def __init__(self, *parts: Any):
        strategy, steps = parts[0].strategy, parts[0].rollout.steps
        super().__init__(*parts, losses_per_image=strategy.random_steps(steps))
        check_run(self.config, self.family, self.schedule)
        self.random = random_schedule(self.schedule, strategy.noise, strategy.eta, range(steps - 1))

    def generate_set(self, number: int, indices: list[int], prompts: list[str]) -> Rollout:
        strategy, seed = self.strategy, self.config.run.seed
        plan = plan_rollout(strategy, len(self.schedule), random.Random(f"{seed} {number}"))
        schedule = random_schedule(self.schedule, strategy.noise, strategy.eta, plan.random)
        shape = self.family.latent_shape(self.height, self.width)
        start = SampleNoise(seed, number, self.group_starts(indices), TRAINING)
        noise = SampleNoise(seed, number, indices, STEPS)
        latents = start(shape, self.accelerator.device)
        condition, copy = self._encode(prompts, self.guidance), self.no_grad_copy
        return self._rollout(condition, self.guidance, noise, plan, schedule, copy, latents)

    def losses(self, step: int, part: Part) -> Iterator[MicroStep]:
        with self.accelerator.autocast():  # as in the rollout: equal weights give equal probabilities
            condition = self._encode(part.prompts, self.guidance)
        advantages = self._upload(part.advantages)
        for visit in part.rollout.visits:
            yield self._policy_loss(visit, condition, advantages)

    def _policy_loss(self, visit: Visit, condition: Condition, advantages: Tensor) -> MicroStep:
        """Compute the clipped loss and the distance at one random step.

        Args:
            visit: the step of B images.
            condition: their encoded prompts.
            advantages: (B,) their advantages.
        """
        x, i, clip = visit.latents, visit.step, self.strategy.clip

        def denoise() -> Tensor:
            with self.accelerator.autocast():
                return self.family.denoise(x, self.schedule.timesteps[i], condition, self.guidance)

        clear_autocast_cache()
        output = denoise()
        new, old = self._log_prob(visit, output), self._log_prob(visit, visit.output)
        loss = self._reward_term(grpo_loss(new, old, advantages, clip).mean().float())
        difference = (new - old).detach()
        ratio = difference.exp()
        values = {
            "grpo/ratio": ratio.mean(),
            "grpo/clipped": ((ratio - 1).abs() > clip).double().mean(),
            "grpo/log_ratio": difference.abs().mean(),
        }
        microstep = MicroStep(loss, {"reward": loss.detach()}, values=values)
        levels = self.schedule.alphas[i], self.schedule.sigmas[i]
        return self._with_distance(microstep, x, output, levels, denoise)

    def _log_prob(self, visit: Visit, output: Tensor) -> Tensor:
        """Return the log-probability (B,) of a random step for an output of the denoiser."""
        mean = self.random.mean(visit.latents, output, visit.step)
        scale = self.random.new_noise_scales[visit.step]
        return log_prob(visit.after, mean, scale, self.strategy.noise)


def check_run(config: TrainConfig, family: Family, schedule: NoiseSchedule) -> None:
    """Raise ConfigError or ModelError if random steps cannot be compared with these settings.

    Models that were distilled to few steps are allowed: unlike nft, the loss uses the latents that sampling
    visits.

    Args:
        config: settings of the run.
        family: the model.
        schedule: noise levels of sampling.
    """
    scale = config.rollout.guidance_scale
    if scale != 1 and not config.strategy.guided_loss:
        raise ConfigError(
            "Cannot use strategy.guided_loss=false with strategy.name=grpo and rollout.guidance_scale="
            f"{scale:g}: the loss compares the probabilities of steps that were guided. Set "
            "strategy.guided_loss=true or rollout.guidance_scale=1."
        )
    if scale != 1 and not family.scale_is_input and not config.rollout.negative_gradient:
        raise ConfigError(
            "Cannot use rollout.negative_gradient=false with strategy.name=grpo: the loss would compute the "
            "branch of the negative prompt in another batch than sampling, and rounding would change the "
            "probabilities. Set rollout.negative_gradient=true."
        )
    if any(schedule.new_noise_scales):
        raise ConfigError(
            "Cannot use rollout.sampler='ddpm' with strategy.name=grpo: all of its steps are random, and "
            "strategy.noise chooses those that are. Use ddim."
        )
    if schedule.prediction == "epsilon":  # other predictions need no division by alpha
        check_signal("grpo", config.model.id, schedule, NO_SIGNAL)
