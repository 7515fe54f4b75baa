"""Rewards without gradient: functions of images, such as a detector, OCR, a VLM or a person's program."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import RewardError
from .error_place import described

ImageFunction = Callable[[list[Image.Image], list[str]], Sequence[float]]
"""(N PIL images, 8-bit RGB, N prompts) -> N numbers."""


def as_saved(pixels: Tensor) -> Tensor:
    """Return pixels (N, 3, H, W) in [0, 1] as they would be saved: uint8, shaped as ``pixels``."""
    return (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Return pixels (N, 3, H, W), in [0, 1] or uint8, as N PIL images, 8-bit RGB."""
    whole = pixels if pixels.dtype == torch.uint8 else as_saved(pixels)
    return [Image.fromarray(image) for image in whole.permute(0, 2, 3, 1).cpu().contiguous().numpy()]


def import_function(name: str) -> Callable[..., Any]:
    """Import a function by "module:function"; modules in the working directory are found too.

    Raises:
        RewardError: the module or the function does not exist, or the import fails.
    """
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module runs any code when it is imported
        raise RewardError(
            f"Cannot import the reward {name!r}: {described(error)}. Name it as "
            "module:function; the module must be installed or in the working directory."
        ) from error
    if not callable(found):
        raise RewardError(
            f"Cannot use the reward {name!r}: it is a {type(found).__name__}, not a function of images and "
            "prompts."
        )
    return found


class ImageReward:
    """A reward that is computed from images and has no gradient.

    Args:
        name: name of the reward, for errors.
        function: (N PIL images, 8-bit RGB, N prompts) -> N numbers.
    """

    def __init__(self, name: str, function: ImageFunction):
        self.name, self.function = name, function

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards (N,) float32 of pixels (N, 3, H, W) in [0, 1], on their device."""
        return self.score(to_images(pixels), list(prompts)).float().to(pixels.device)

    def score(
        self, images: list[Image.Image], prompts: list[str], indices: Sequence[int] | None = None
    ) -> Tensor:
        """Return rewards (N,) float64 on the CPU.

        Args:
            images: N images, 8-bit RGB.
            prompts: N prompts.
            indices: N numbers that name the samples in errors; None: 0 to N - 1.

        Raises:
            RewardError: the function failed or did not return N numbers. It names the sample.
        """
        indices = range(len(prompts)) if indices is None else indices
        samples = [f"sample {index} ({prompt!r})" for index, prompt in zip(indices, prompts)]
        try:
            with torch.no_grad():
                rewards = self.function(list(images), list(prompts))
        except Exception as error:
            sample = self._failing_sample(images, prompts, samples)
            raise RewardError(
                f"Cannot compute the reward {self.name!r} of {sample}: {described(error)}"
            ) from error
        return self._numbers(rewards, samples)

    def _failing_sample(self, images: list[Image.Image], prompts: list[str], samples: list[str]) -> str:
        """Return the first sample that fails alone, or all of them if none does."""
        for image, prompt, sample in zip(images, prompts, samples):
            try:
                self.function([image], [prompt])
            except Exception:
                return sample
        return f"{samples[0]} and {len(samples) - 1} more" if len(samples) > 1 else samples[0]

    def _numbers(self, rewards: Any, samples: list[str]) -> Tensor:
        if isinstance(rewards, Tensor):
            rewards = rewards.detach().cpu().numpy()
        try:
            values = list(rewards)
        except TypeError:
            raise RewardError(
                f"Cannot use the reward {self.name!r}: it returned {type(rewards).__name__} instead of a "
                f"sequence of {len(samples)} numbers."
            ) from None
        if len(values) != len(samples):
            raise RewardError(
                f"Cannot use the reward {self.name!r}: it returned {len(values)} numbers for "
                f"{len(samples)} images. Return one number for each image."
            )
        numbers = np.empty(len(values))
        for i, value in enumerate(values):
            try:
                numbers[i] = float(value)
            except (TypeError, ValueError):
                raise RewardError(
                    f"Cannot use the reward {self.name!r} of {samples[i]}: it returned {value!r} instead of "
                    "a number."
                ) from None
        return torch.from_numpy(numbers)
