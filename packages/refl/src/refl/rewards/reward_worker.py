"""Rewards of generated images, computed beside the generation of the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from .image_rewards import ImageReward, as_saved, to_images
from .rewards import Reward, Rewards

WAITING = 2  # batches of images that may wait for their rewards


class RewardWorker:
    """Computes every reward of batches of images, as they would be saved (8 bits).

    Rewards of images run in a thread, so that the device can generate the next batch. Rewards of pixels
    run at once: they use the device that generates.

    Args:
        rewards: the rewards.
        device: the device that generates. It is the thread's current one, so that a function that uses
            "cuda" computes on it.
    """

    def __init__(self, rewards: Rewards, device: torch.device):
        self.rewards = rewards
        if device.type == "cuda":  # the current device belongs to a thread, and that of a new one is 0
            index = torch.cuda.current_device() if device.index is None else device.index
            self.executor = ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(index,))
        else:
            self.executor = ThreadPoolExecutor(1)
        self.batches: list[dict[str, Tensor | Future[Tensor]]] = []

    def __enter__(self) -> RewardWorker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)

    @torch.no_grad()
    def add(self, pixels: Tensor, prompts: Sequence[str], indices: Sequence[int]) -> None:
        """Start the rewards of a batch.

        Args:
            pixels: (N, 3, H, W) in [0, 1].
            prompts: N prompts.
            indices: N numbers that name the samples in errors.
        """
        if len(self.batches) >= WAITING:
            _values(self.batches[-WAITING])  # wait, so that images do not pile up
        whole = as_saved(pixels)
        images = to_images(whole) if any(_of_images(reward) for reward in self.rewards) else []
        batch: dict[str, Tensor | Future[Tensor]] = {}
        for reward in self.rewards:
            if isinstance(reward.function, ImageReward):
                arguments = (images, list(prompts), list(indices))
                batch[reward.config.name] = self.executor.submit(reward.function.score, *arguments)
            else:
                batch[reward.config.name] = reward(whole.float() / 255, prompts)
        self.batches.append(batch)

    def results(self) -> dict[str, Tensor]:
        """Return name -> rewards (N,) float64 of all batches on the CPU; wait for them."""
        batches = [_values(batch) for batch in self.batches]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _of_images(reward: Reward) -> bool:
    return isinstance(reward.function, ImageReward)


def _values(batch: dict[str, Tensor | Future[Tensor]]) -> dict[str, Tensor]:
    return {
        name: (value.result() if isinstance(value, Future) else value).double().cpu()
        for name, value in batch.items()
    }
