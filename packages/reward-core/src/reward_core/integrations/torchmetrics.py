"""The mean reward of generated images as a torchmetrics metric (extra: ``torchmetrics``).

from reward_core.integrations.torchmetrics import RewardScore

metric = RewardScore("ImageReward-v1.0")
metric.update(images, prompts)
metric.compute()
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import ImageError, InputError, MissingExtraError
from ..inputs.image_file import ImageSource
from ..scoring.rewards import scorer_rewards
from ..scoring.scorer import Scorer

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
except ImportError as error:
    raise MissingExtraError("torchmetrics", "torchmetrics") from error

REDUCTIONS = ("mean", "none")


class RewardScore(Metric):
    """The mean reward, or the rewards, of (image, prompt) pairs.

    Rewards of ImageReward-v1.0 are about N(0, 1) over generated images; they are unbounded.

    Batches of float tensors use the model's differentiable method, so calling the metric returns a value
    with gradients. 8-bit tensors, PIL images and paths are read as if from an image file.

    The model is not in the metric's ``state_dict``, so checkpoints do not grow. Copies of the metric share
    the model. It moves to the metric's device at the next update.

    Args:
        model: a name or folder for ``reward_core.load``, or any Scorer. A named model is
            loaded at the first update, and a pickled metric contains only its name.
        reduction: "mean", or "none" for all rewards in the order of the updates (with several processes, by
            rank first).
        batch_size: pairs per batch if no gradient is needed.
        kwargs: passed to ``torchmetrics.Metric``.
    """

    is_differentiable: bool = True
    higher_is_better: bool = True
    full_state_update: bool = False

    total: Tensor
    count: Tensor
    rewards: list[Tensor]

    def __init__(
        self,
        model: str | os.PathLike[str] | Scorer = "ImageReward-v1.0",
        *,
        reduction: str = "mean",
        batch_size: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise InputError(
                f"Cannot use reduction={reduction!r}: it must be one of {', '.join(REDUCTIONS)}."
            )
        self.reduction, self.batch_size = reduction, batch_size
        self._model = _Model(model)
        if reduction == "mean":
            self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        else:
            self.add_state("rewards", [], dist_reduce_fx="cat")

    @property
    def scorer(self) -> Scorer:
        """The model, which is loaded if necessary."""
        return self._model.on(self.device)

    def update(self, images: Tensor | Sequence[Tensor | ImageSource], prompts: str | Sequence[str]) -> None:
        """Add pairs.

        Args:
            images: (N, 3, H, W) or (3, H, W), uint8 or float in [0, 1]; or a list of (3, H, W) tensors, PIL
                images or paths of any sizes.
            prompts: N strings, or one string for a single image.

        Raises:
            InputError: a shape or dtype is wrong, or the numbers of images and prompts differ.
            ImageError: an image cannot be read, or a float tensor is outside [0, 1].
            NonFiniteRewardError: a reward is NaN or infinite.
        """
        rewards = self._rewards(images, [prompts] if isinstance(prompts, str) else list(prompts))
        if self.reduction == "mean":
            self.total = self.total + rewards.sum()
            self.count = self.count + len(rewards)
        else:
            self.rewards.append(rewards)

    def compute(self) -> Tensor:
        """Return the mean reward, shape (), or all rewards (N,)."""
        if self.reduction == "none":
            return dim_zero_cat(self.rewards) if len(self.rewards) else torch.zeros(0, device=self.device)
        return self.total / self.count  # NaN without any pair

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot a value or a sequence of values with matplotlib; return (figure, axes)."""
        return self._plot(val, ax)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        super()._reduce_states(incoming_state)
        if self.reduction == "none":
            # After forward() the rewards still reference their graph and thus the model's activations.
            self.rewards = [rewards.detach() for rewards in self.rewards]

    def _rewards(self, images: Any, prompts: list[str]) -> Tensor:
        image_list = _as_list(images)
        if len(image_list) != len(prompts):
            raise InputError(
                f"Cannot score the pairs: got {len(prompts)} prompts but {len(image_list)} images."
            )
        scorer = self.scorer
        floats = [i for i, p in enumerate(image_list) if isinstance(p, Tensor) and p.is_floating_point()]
        names = [f"image {i} ({prompt!r})" for i, prompt in enumerate(prompts)]
        if floats and len(floats) == len(image_list) and hasattr(scorer, "rewards_from_pixels"):
            differentiable = self._from_floats(scorer, image_list, prompts)
            scorer_rewards(scorer, differentiable, names)
            return differentiable
        readable = [_to_pil(p) if isinstance(p, Tensor) else p for p in image_list]
        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        rewards = scorer_rewards(scorer, scorer.score_pairs(prompts, readable, **options), names)
        return torch.tensor(rewards, dtype=torch.float32, device=self.device)

    def _from_floats(self, scorer: Any, images: list[Tensor], prompts: list[str]) -> Tensor:
        size = self.batch_size or len(images)
        rewards: list[Tensor] = []
        start = 0
        while start < len(images):
            stop = start + 1  # extended to the following images of the same size
            while stop < min(len(images), start + size) and images[stop].shape == images[start].shape:
                stop += 1
            pixels = torch.stack(images[start:stop])
            rewards.append(scorer.rewards_from_pixels(pixels, prompts[start:stop]).float().to(self.device))
            start = stop
        return torch.cat(rewards)


class _Model:
    """A model, given by name or as an object. Copies share it; pickling a named model stores its name."""

    def __init__(self, source: str | os.PathLike[str] | Scorer):
        if not isinstance(source, (str, os.PathLike, Scorer)):
            raise InputError(
                f"Cannot use a {type(source).__name__} as model: give a name, a folder or a Scorer."
            )
        self.source = source
        self.loaded: Any = None if isinstance(source, (str, os.PathLike)) else source

    def on(self, device: torch.device) -> Any:
        """Return the model on a device; load it if necessary."""
        if self.loaded is None and isinstance(self.source, (str, os.PathLike)):
            from ..models.load import load

            self.loaded = load(self.source, device=device)
        if isinstance(self.loaded, torch.nn.Module):
            self.loaded.to(device)
        return self.loaded

    def __deepcopy__(self, memo: dict) -> _Model:
        return self

    def __getstate__(self) -> dict[str, Any]:
        named = isinstance(self.source, (str, os.PathLike))
        return {"source": self.source, "loaded": None if named else self.loaded}


def _as_list(images: Any) -> list[Any]:
    """Return a checked list of (3, H, W) tensors, PIL images and paths."""
    if isinstance(images, Tensor):
        if images.ndim not in (3, 4):
            raise InputError(
                f"Cannot score images of shape {tuple(images.shape)}: the shape must be (N, 3, H, W)."
            )
        images = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, (str, os.PathLike, Image.Image)):
        images = [images]
    image_list = list(images)
    if not image_list:
        raise InputError("Cannot update the metric: no images given.")
    for i, image in enumerate(image_list):
        if isinstance(image, Tensor):
            _check_tensor(f"image {i}", image)
    return image_list


def _check_tensor(name: str, image: Tensor) -> None:
    actual = f"a tensor of shape {tuple(image.shape)} and dtype {image.dtype}"
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"Cannot read {name}: expected shape (3, H, W), got {actual}.")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise InputError(f"Cannot read {name}: expected uint8, or float in [0, 1], got {actual}.")
    low, high = image.detach().aminmax()
    # Tolerates rounding of decoders and resampling, but not values in [0, 255] or [-1, 1].
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ImageError(name, f"floats must be in [0, 1], got [{low.item():.3g}, {high.item():.3g}]")


def _to_pil(image: Tensor) -> Image.Image:
    if image.is_floating_point():
        image = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
