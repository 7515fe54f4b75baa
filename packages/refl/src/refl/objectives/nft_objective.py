"""Training without the reward's gradient: DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117).

The old weights generate groups of images of the same prompt without gradient. Rewards compare the images of
a group. Each image is re-noised to levels of the sampling schedule, where the loss moves the prediction of
the trained weights toward better images and away from worse ones, relative to that of the old weights.
The old weights then follow the trained ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import clean
from reward_core.runs.cuda import upload

from ..denoising.noise_schedule import NO_SIGNAL, NoiseSchedule
from ..denoising.rollout import Rollout, SampleNoise, clear_autocast_cache
from ..denoising.rollout_plan import whole_rollout
from ..errors import ModelError
from ..families import Condition, Family, Guidance
from .advantages import to_unit
from .losses import nft_loss
from .objective import LEVELS, TRAINING, MicroStep
from .policy_objective import Part, PolicyObjective, check_signal


class NFTObjective(PolicyObjective):
    """Trains on generated images according to their rewards, with a forward process.

    Raises:
        ModelError: the model is distilled or its schedule has a level without signal.
    """

    def __init__(self, *parts: Any):
        config = parts[0]
        super().__init__(*parts, losses_per_image=config.strategy.levels)
        check_model(self.family, config.model.id, self.schedule)
        self.sampling_levels = self.schedule.levels()  # (3, N), on the CPU
        self.loss_guidance = self.guidance if self.strategy.guided_loss else Guidance()

    def generate_set(self, number: int, indices: list[int], prompts: list[str]) -> Rollout:
        noise = SampleNoise(self.config.run.seed, number * self.strategy.updates, indices, TRAINING)
        plan = whole_rollout(len(self.schedule))
        condition = self._encode(prompts, self.guidance)
        return self._rollout(condition, self.guidance, noise, plan, self.schedule, self.no_grad_copy)

    def losses(self, step: int, part: Part) -> Iterator[MicroStep]:
        noise = SampleNoise(self.config.run.seed, step, self.group_starts(part.indices), LEVELS)
        drawn = noise.permutations(len(self.schedule))  # (B, N)
        condition = self._encode(part.prompts, self.loss_guidance)
        shape = self.family.latent_shape(self.height, self.width)
        for level in range(self.strategy.levels):
            added = noise(shape, self.accelerator.device)
            yield self._policy_loss(part, condition, drawn[:, level], added)

    def _policy_loss(self, part: Part, condition: Condition, drawn: Tensor, added: Tensor) -> MicroStep:
        """Compute the policy loss and the distance at one noise level of each image.

        Args:
            part: the images.
            condition: their encoded prompts.
            drawn: (B,) steps of the sampling schedule.
            added: (B, C, h, w) standard normal noise.
        """
        latents, prediction = part.rollout.latents, self.schedule.prediction
        timesteps, alpha, sigma = upload(self.sampling_levels[:, drawn], self.accelerator.device)
        alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
        x = alpha * latents + sigma * added

        def denoise() -> Tensor:
            with self.accelerator.autocast():
                return self.family.denoise(x, timesteps, condition, self.loss_guidance)

        with torch.no_grad(), self.trainable.old():
            old = clean(x, denoise(), alpha, sigma, prediction)
        clear_autocast_cache()
        output = denoise()
        new = clean(x, output, alpha, sigma, prediction)
        clip = self.strategy.advantage_clip
        r = self._upload(to_unit(part.advantages, clip))
        losses = nft_loss(new, old, latents, r, self.strategy.beta, clip)
        loss = self._reward_term((self._upload(part.kept) * losses).mean())
        moved = (new.detach() - old).pow(2).mean()
        microstep = MicroStep(loss, {"reward": loss.detach()}, values={"nft/old_distance": moved})
        return self._with_distance(microstep, x, output, (alpha, sigma), denoise)


def check_model(family: Family, name: str, schedule: NoiseSchedule) -> None:
    """Raise ModelError for a model that the forward process would damage.

    Args:
        family: the model.
        name: its hub id or path.
        schedule: the noise levels of sampling, at which it is trained.
    """
    if reason := family.distillation(name):
        raise ModelError(
            f"Cannot train {name!r} with strategy.name=nft: {reason}. Training on noised images blurs what "
            "it draws in few steps. Train the model that it was distilled from."
        )
    if schedule.prediction != "flow":  # a flow starts at pure noise by design
        check_signal("nft", name, schedule, NO_SIGNAL if schedule.prediction == "epsilon" else 0.0)
