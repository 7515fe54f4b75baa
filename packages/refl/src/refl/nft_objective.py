"""Training without the reward's gradient: DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117).

The old weights generate groups of images of the same prompt without gradient. Rewards compare the images of
a group. Each image is re-noised to levels of the sampling schedule, where the loss moves the prediction of
the trained weights toward better images and away from worse ones, relative to that of the old weights.
The old weights then follow the trained ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from reward_core.integrations.diffusers.clean_latents import clean
from reward_core.runs.cuda import upload

from .errors import ModelError
from .families import Condition, Family, Guidance
from .group_rewards import RunSpread, compare_groups, warn_of_broken
from .losses import distance, nft_loss
from .noise_schedule import NoiseSchedule
from .objective import LEVELS, TRAINING, MicroStep, Objective
from .prompts import Batches
from .reward_worker import RewardWorker
from .rollout import SampleNoise, clear_autocast_cache
from .strategies import whole_rollout

# Alphas up to these have no signal. x0 is read from epsilon by a division by alpha; Stable Diffusion, which
# ends at 0.07, is far from that. Other predictions need no division.
NO_SIGNAL = {"epsilon": 1e-3}


@dataclass
class Part:
    """The images of one microstep on this rank.

    Attributes:
        indices: B indices into the endless sequence of samples.
        prompts: B prompts.
        latents: (B, C, h, w) clean latents.
        r: (B,) how much each image is to be reinforced.
        kept: (B,) 1 for images that are trained on, 0 for those of skipped groups.
    """

    indices: list[int]
    prompts: list[str]
    latents: Tensor
    r: Tensor
    kept: Tensor


class NFTObjective(Objective):
    """Trains on generated images according to their rewards, with a forward process.

    Raises:
        ModelError: the model is distilled or its schedule has a level without signal.
    """

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        check_model(self.family, self.config.model.id, self.schedule)
        self.strategy = self.config.strategy
        self.microsteps_per_step = self.config.run.accumulation * self.strategy.levels
        self.sampling_levels = self.schedule.levels()  # (3, N), on the CPU
        self.loss_guidance = self.guidance if self.strategy.guided_loss else Guidance()
        self.spread = RunSpread()
        self._number = -1  # of the current set of images
        self._parts: list[Part] = []

    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        number = step // self.strategy.updates
        if self._number != number:
            self._parts = self._collect(number, batches)
            self._number = number
        shape = self.family.latent_shape(self.height, self.width)
        for micro, part in enumerate(self._parts):
            noise = SampleNoise(self.config.run.seed, step, self._noise_indices(part), LEVELS)
            drawn = noise.permutations(len(self.schedule))  # (B, N)
            condition = self._encode(part.prompts, self.loss_guidance)
            pretraining = batches.indices(step, micro, self.config.loss.pretraining_batch_size)
            for level in range(self.strategy.levels):
                added = noise(shape, self.accelerator.device)
                microstep = self._policy_loss(part, condition, drawn[:, level], added)
                yield self._with_pretraining(microstep, step, pretraining, first=level == 0)

    def finish(self, step: int) -> None:
        if (step + 1) % self.strategy.updates == 0:
            self.trainable.update_old(self.strategy.keep_old(step + 1))

    def numbers(self) -> dict[str, Any]:
        return asdict(self.spread)

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        self.spread = RunSpread(**numbers)

    def _noise_indices(self, part: Part) -> list[int]:
        """Return the indices whose noise re-noises the images: those of the groups' first ones."""
        if not self.strategy.shared_noise:
            return part.indices
        return [index - index % self.strategy.group for index in part.indices]

    @torch.no_grad()
    def _collect(self, number: int, batches: Batches) -> list[Part]:
        """Generate and score the images of set ``number`` with the old weights."""
        config, parts = self.config, []
        with self.trainable.old(), RewardWorker(self.rewards) as worker:
            if self.no_grad_copy is not None:
                self.no_grad_copy.refresh()
            for micro in range(config.run.accumulation):
                indices = batches.indices(number, micro)
                prompts = batches.prompts_of(indices)
                noise = SampleNoise(config.run.seed, number * self.strategy.updates, indices, TRAINING)
                plan = whole_rollout(len(self.schedule))
                with self.accelerator.autocast():
                    result, _ = self._rollout(prompts, noise, plan, self.schedule, self.no_grad_copy)
                worker.add(self.family.decode(result.latents, False, self.decode_dtype), prompts, indices)
                parts.append((indices, prompts, result.latents))
            rewards = worker.results()
        first = number * batches.images
        r, kept = self._compare(
            number, first, [i for indices, _, _ in parts for i in indices], rewards, batches
        )
        return [
            Part(indices, prompts, latents, *(values[[i - first for i in indices]] for values in (r, kept)))
            for indices, prompts, latents in parts
        ]

    def _compare(
        self, number: int, first: int, indices: list[int], rewards: dict[str, Tensor], batches: Batches
    ) -> tuple[Tensor, Tensor]:
        """Return r and kept (N,) of all images of all ranks; index ``first`` is that of the first image."""
        device = self.accelerator.device
        own = torch.stack([torch.tensor(indices, dtype=torch.float64), *rewards.values()], 1)
        table = self.accelerator.gather(own.to(device)).cpu()  # (N, 1 + rewards)
        table = table[table[:, 0].argsort()]
        values = {name: table[:, i + 1].numpy() for i, name in enumerate(rewards)}
        if self.accelerator.is_main_process:
            prompts = batches.prompts_of(range(first, first + len(table)))
            warn_of_broken(values, [r.config.name for r in self.rewards.trained], prompts, first)
        compared = compare_groups(self.config, number, values, self.spread)
        self.statistics = compared.statistics
        r, kept = (torch.from_numpy(v).float().to(device) for v in (compared.r, compared.kept))
        return r, kept

    def _policy_loss(self, part: Part, condition: Condition, drawn: Tensor, added: Tensor) -> MicroStep:
        """Compute the policy loss and the distance at one noise level of each image.

        Args:
            part: the images.
            condition: their encoded prompts.
            drawn: (B,) steps of the sampling schedule.
            added: (B, C, h, w) standard normal noise.
        """
        config, prediction = self.config.loss, self.schedule.prediction
        timesteps, alpha, sigma = upload(self.sampling_levels[:, drawn], self.accelerator.device)
        alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
        x = alpha * part.latents + sigma * added

        def denoise() -> Tensor:
            with self.accelerator.autocast():
                return self.family.denoise(x, timesteps, condition, self.loss_guidance)

        with torch.no_grad(), self.trainable.old():
            old = clean(x, denoise(), alpha, sigma, prediction)
        clear_autocast_cache()
        output = denoise()
        new = clean(x, output, alpha, sigma, prediction)
        losses = nft_loss(new, old, part.latents, part.r, self.strategy.beta, self.strategy.advantage_clip)
        loss = config.reward_scale * (part.kept * losses).mean()
        terms = {"reward": loss.detach()}
        if config.distance_weight:
            with torch.no_grad(), self.trainable.reference():
                reference = denoise()
            term = distance(x, output, reference, alpha, sigma, prediction, config.distance)
            loss, terms["distance"] = (
                loss + config.distance_weight * term,
                config.distance_weight * term.detach(),
            )
        moved = (new.detach() - old).pow(2).mean()
        return MicroStep(loss, terms, values={"nft/old_distance": moved})

    def _with_pretraining(
        self, microstep: MicroStep, step: int, indices: list[int], first: bool
    ) -> MicroStep:
        """Add the denoising loss on captioned images, once for all levels of an image."""
        if self.captioned is None:
            return microstep
        term = microstep.loss.new_zeros(())
        if first:  # the step averages over levels
            weight = self.config.loss.pretraining_weight * self.strategy.levels
            term = weight * self._pretraining_loss(self.captioned, step, indices)
        microstep.loss = microstep.loss + term
        microstep.loss_terms["pretraining"] = term.detach()
        return microstep


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
    if schedule.prediction == "flow":  # it starts at pure noise by design
        return
    for timestep, alpha in zip(schedule.timesteps, schedule.alphas):
        if alpha <= NO_SIGNAL.get(schedule.prediction, 0.0):
            raise ModelError(
                f"Cannot train {name!r} with strategy.name=nft: its noise level at timestep {timestep:g} has "
                f"no signal (alpha = {alpha:.2g}, zero terminal SNR), so no clean image can be read from it. "
                "Use a scheduler without rescale_betas_zero_snr, or with timestep_spacing=leading."
            )
