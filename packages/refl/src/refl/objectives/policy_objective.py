"""What objectives without the reward's gradient share: groups of images, their advantages, old weights.

The old weights generate groups of images of the same prompt without gradient. Rewards compare the images of
a group: each gets an advantage. The images are trained on in ``strategy.updates`` optimizer steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_core.runs.cuda import upload

from ..data.prompts import Batches
from ..denoising.noise_schedule import NoiseSchedule
from ..denoising.rollout import Rollout
from ..errors import ModelError
from ..rewards.reward_worker import RewardWorker
from .group_rewards import RunSpread, compare_groups, warn_of_broken
from .losses import distance
from .objective import MicroStep, Objective


@dataclass
class Part:
    """The images of one microstep on this rank.

    Attributes:
        indices: B indices into the endless sequence of samples.
        prompts: B prompts.
        rollout: latents (B, C, h, w) and random steps of the images.
        advantages: (B,) float64 advantages; 0 for images of skipped groups.
        kept: (B,) whether an image is trained on; false for those of skipped groups.
    """

    indices: list[int]
    prompts: list[str]
    rollout: Rollout
    advantages: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class SetRewards:
    """Rewards of a set of images. A run that resumes within the set uses them instead of scoring again.

    Attributes:
        number: number of the set; -1: no set was scored.
        rewards: name -> (N,) float64 rewards of the images of all ranks, in order of their indices.
    """

    number: int = -1
    rewards: dict[str, np.ndarray] = field(default_factory=dict)


class PolicyObjective(Objective):
    """Trains on groups of generated images according to their rewards, whose gradient it does not use.

    Args:
        parts: as Objective takes them.
        losses_per_image: number of losses of each image in an optimizer step.
    """

    def __init__(self, *parts: Any, losses_per_image: int):
        super().__init__(*parts)
        self.strategy = self.config.strategy
        self.losses_per_image = losses_per_image
        self.microsteps_per_step = self.config.run.accumulation * losses_per_image
        self.spread = RunSpread()
        self._number = -1  # of the current set of images
        self._parts: list[Part] = []
        self._scored = SetRewards()

    @abstractmethod
    def generate_set(self, number: int, indices: list[int], prompts: list[str]) -> Rollout:
        """Generate the images of one microstep of set ``number``, under autocast and without gradient."""

    @abstractmethod
    def losses(self, step: int, part: Part) -> Iterator[MicroStep]:
        """Yield the ``losses_per_image`` losses of the images of one microstep."""

    def microsteps(self, step: int, batches: Batches) -> Iterator[MicroStep]:
        number = step // self.strategy.updates
        if self._number != number:
            self._parts = self._collect(number, batches)
            self._number = number
        for micro, part in enumerate(self._parts):
            pretraining = batches.indices(step, micro, self.config.loss.pretraining_batch_size)
            for n, microstep in enumerate(self.losses(step, part)):
                yield self._with_pretraining(microstep, step, pretraining, first=n == 0)

    def finish(self, step: int) -> None:
        if (step + 1) % self.strategy.updates == 0:
            self.trainable.update_old(self.strategy.keep_old(step + 1))

    def numbers(self) -> dict[str, Any]:
        rewards = {name: values.tolist() for name, values in self._scored.rewards.items()}
        return {"spread": asdict(self.spread), "set": self._scored.number, "rewards": rewards}

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        self.spread = RunSpread(**numbers["spread"])
        rewards = {name: np.array(values, np.float64) for name, values in numbers["rewards"].items()}
        self._scored = SetRewards(numbers["set"], rewards)

    def group_starts(self, indices: Sequence[int]) -> list[int]:
        """Return the indices whose noise images use: those of their groups' first ones, if it is shared."""
        if not self.strategy.shared_noise:
            return list(indices)
        return [index - index % self.strategy.group for index in indices]

    def _collect(self, number: int, batches: Batches) -> list[Part]:
        """Generate and score the images of set ``number`` with the old weights."""
        generated = self._generate(number, batches)
        compared = compare_groups(self.config, self._scored.rewards, self.spread.floors())
        self.statistics = compared.statistics
        first, parts = number * batches.images, []
        for indices, prompts, result in generated:
            own = [index - first for index in indices]
            parts.append(Part(indices, prompts, result, compared.advantages[own], compared.kept[own]))
        return parts

    @torch.no_grad()
    def _generate(self, number: int, batches: Batches) -> list[tuple[list[int], list[str], Rollout]]:
        """Generate the images of set ``number``, and score them unless a checkpoint had their rewards."""
        generated, is_new = [], number != self._scored.number
        with self.trainable.old(), RewardWorker(self.rewards, self.accelerator.device) as worker:
            if self.no_grad_copy is not None:
                self.no_grad_copy.refresh()
            for micro in range(self.config.run.accumulation):
                indices = batches.indices(number, micro)
                prompts = batches.prompts_of(indices)
                with self.accelerator.autocast():
                    result = self.generate_set(number, indices, prompts)
                if is_new:
                    pixels = self.family.decode(result.latents, False, self.decode_dtype)
                    worker.add(pixels, prompts, indices)
                generated.append((indices, prompts, result))
            own = worker.results() if is_new else {}
        if is_new:
            rewards = self._gather([i for indices, *_ in generated for i in indices], own, batches)
            self._scored = SetRewards(number, rewards)
            self.spread.add(self.config, rewards)
        return generated

    def _gather(self, indices: list[int], own: dict[str, Tensor], batches: Batches) -> dict[str, np.ndarray]:
        """Return name -> (N,) the rewards of the set's images of all ranks, in order of their indices.

        Args:
            indices: indices of this rank's images.
            own: name -> their rewards.
            batches: prompts of the images.
        """
        columns = torch.stack([torch.tensor(indices, dtype=torch.float64), *own.values()], 1)
        table = self.accelerator.gather(upload(columns, self.accelerator.device)).cpu()  # (N, 1 + rewards)
        table = table[table[:, 0].argsort()]
        values = {name: table[:, i + 1].numpy() for i, name in enumerate(own)}
        if self.accelerator.is_main_process:
            first = int(table[0, 0])
            prompts = batches.prompts_of(range(first, first + len(table)))
            warn_of_broken(values, [r.config.name for r in self.rewards.trained], prompts, first)
        return values

    def _upload(self, values: np.ndarray) -> Tensor:
        """Return values (B,) as float32 on the device."""
        return upload(torch.from_numpy(values).float(), self.accelerator.device)

    def _with_distance(
        self,
        microstep: MicroStep,
        x: Tensor,
        output: Tensor,
        levels: tuple[Any, Any],
        denoise: Callable[[], Tensor],
    ) -> MicroStep:
        """Add the distance to the base model, if it has a weight.

        Args:
            microstep: the policy loss.
            x: (B, C, h, w) latents that were denoised.
            output: output of the trained denoiser, with gradient, shaped as ``x``.
            levels: factors of the clean latents and of the noise, numbers or (B, 1, 1, 1).
            denoise: returns the output for ``x`` with the weights that the denoiser has.
        """
        weight, schedule = self.config.loss.distance_weight, self.schedule
        if not weight:
            return microstep
        with torch.no_grad(), self.trainable.reference():
            reference = denoise()
        term = weight * distance(
            x, output, reference, *levels, schedule.prediction, self.config.loss.distance
        )
        microstep.loss = microstep.loss + term
        microstep.loss_terms["distance"] = term.detach()
        return microstep

    def _with_pretraining(
        self, microstep: MicroStep, step: int, indices: list[int], first: bool
    ) -> MicroStep:
        """Add the denoising loss on captioned images, once for all losses of an image."""
        if self.captioned is None:
            return microstep
        term = microstep.loss.new_zeros(())
        if first:  # the step averages over the losses of an image
            weight = self.config.loss.pretraining_weight * self.losses_per_image
            term = weight * self._pretraining_loss(self.captioned, step, indices)
        microstep.loss = microstep.loss + term
        microstep.loss_terms["pretraining"] = term.detach()
        return microstep


def check_signal(strategy: str, name: str, schedule: NoiseSchedule, limit: float) -> None:
    """Raise ModelError if a noise level has no signal, so that no clean image can be read from it.

    Args:
        strategy: name of the strategy.
        name: hub id or path of the model.
        schedule: the noise levels of sampling.
        limit: alphas up to this have no signal.
    """
    for timestep, alpha in zip(schedule.timesteps, schedule.alphas):
        if alpha <= limit:
            raise ModelError(
                f"Cannot train {name!r} with strategy.name={strategy}: its noise level at timestep "
                f"{timestep:g} has no signal (alpha = {alpha:.2g}, zero terminal SNR), so no clean image can "
                "be read from it. Use a scheduler without rescale_betas_zero_snr, or with "
                "timestep_spacing=leading."
            )
