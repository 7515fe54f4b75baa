"""Scoring methods that all models share.

They compute in batches and return rewards on the CPU.

Shapes: B images in a batch, N pairs or images, P prompts, L text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files.score_file import ScoredRow
from ..inputs.image_file import ImageSource, image_name
from ..inputs.image_transform import ImageTransform
from ..inputs.tokenizer import PromptTokenizer, check_prompts
from ..runs.caller_warning import quoted
from .batching import checked_batch_size, in_batches
from .features import ImageFeatures, PromptFeatures
from .pipeline import image_batches
from .rewards import checked_finite, ranking
from .steps import ScoringPath
from .weights_identity import WeightsWatch, weights_fingerprint

# Text tokens in a batch of score_matrix. Limits the memory of the text encoder.
_TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65536}


class ScoringMethods(ABC):
    """Mixin with the scoring methods of all models.

    `ScoringModel` and the model families implement the attributes and abstract methods.
    """

    config: Any  # with to_dict()
    tokenizer: PromptTokenizer
    transform: ImageTransform
    resize_on_device: bool

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the parameters."""

    @abstractmethod
    def path(self) -> ScoringPath:
        """Return the steps from pixels to rewards, eager or compiled."""

    @abstractmethod
    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return text features of prompts (P, L), or None if they depend on the image."""

    @abstractmethod
    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that cached features depend on."""

    def score(
        self, prompt: str, image: ImageSource | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> float | list[float]:
        """Return the reward of one image (a float) or of each image in a list (a list).

        Rewards of ImageReward-v1.0 are roughly N(0, 1) over generated images; ``percentile`` converts them.

        Args:
            prompt: the prompt.
            image: a path, a PIL image, or a list of them.
            batch_size: images in a batch (default: 8 on a CPU, 64 on a GPU).
        """
        source: Any = _as_list(image)
        if isinstance(source, (list, tuple)):
            return self.score_matrix([prompt], source, batch_size=batch_size)[0].tolist()
        return self.score_matrix([prompt], [source], batch_size=batch_size).item()

    def inference_rank(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[list[int], list[float]]:
        """Return the rank (1 is best) and the reward of each image, in input order.

        Both are lists, even for one image. Equal rewards are ranked in input order.
        """
        rewards = self.score_matrix([prompt], images, batch_size=batch_size)[0].tolist()
        return ranking(rewards), rewards

    def score_pairs(
        self,
        prompts: Sequence[str] | PromptFeatures,
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the rewards (N,) of prompt i with image i, float32 on the CPU.

        Args:
            prompts: N strings, or the result of ``encode_prompts``.
            images: N paths or PIL images, or the result of ``encode_images``.
            batch_size: pairs in a batch (default: 8 on a CPU, 64 on a GPU); halved when memory runs out.

        Raises:
            InputError: no input, unequal numbers of prompts and images, or features of another model.
            ImageError: an image that cannot be read.
            NonFiniteRewardError: a reward that is NaN or infinite.
        """
        prompts, images = _as_list(prompts), _as_list(images)
        self._check_prompts(prompts)
        self._check_image_source(images, len(prompts))
        encoded = self._prompt_features(prompts)
        batches = image_batches(self, images, batch_size, self._pair_scorer(encoded))
        rewards = torch.cat([batch.result for batch in batches if batch.result is not None])  # (N,)
        return checked_finite(rewards, lambda i: _pair_name(encoded.prompts[i], images, i))

    def score_matrix(
        self,
        prompts: Sequence[str] | PromptFeatures,
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the rewards (P, N) of every prompt with every image, float32 on the CPU.

        Each image is encoded once. Args and Raises are as in ``score_pairs``, with P prompts and N images.
        """
        prompts, images = _as_list(prompts), _as_list(images)
        self._check_prompts(prompts)
        self._check_image_source(images)
        encoded = self._prompt_features(prompts)
        on_device = encoded.to(self.device)

        def columns(features: Tensor, indices: list[int]) -> Tensor:
            return self._matrix(self.path().project_kv(features), len(indices), on_device)  # (P, B)

        batches = image_batches(self, images, batch_size, columns)
        rewards = torch.cat([batch.result for batch in batches if batch.result is not None], dim=1)  # (P, N)
        width = len(images)
        return checked_finite(rewards, lambda i: _pair_name(encoded.prompts[i // width], images, i % width))

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """Yield a row for each pair, in order (``score_pairs`` for long runs).

        The row of an image that cannot be read holds the error instead of a score.
        """
        prompts, images = _as_list(prompts), _as_list(images)
        check_prompts(prompts)
        _check_images(images)
        _check_counts(len(prompts), len(images))
        compute = self._pair_scorer(self.encode_prompts(prompts))
        for batch in image_batches(self, images, batch_size, compute, keep_errors=True):
            scores: dict[int, float] = {}
            if batch.result is not None:
                scored = batch.scored
                checked_finite(batch.result, lambda k: _pair_name(prompts[scored[k]], images, scored[k]))  # noqa: B023
                scores = dict(zip(scored, batch.result.tolist()))
            for i in batch.indices:
                yield ScoredRow(prompts[i], image_name(images[i]), scores.get(i), batch.errors.get(i))

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int | None = None) -> ImageFeatures:
        """Encode images to score them many times; return their features on the CPU.

        Features of ImageReward-v1.0 take 0.8 MB per image. (For tensors use ``encode_pixels``.)
        """
        images = _as_list(images)
        self._check_image_source(images)
        batches = image_batches(self, images, batch_size, lambda features, indices: features)
        data = torch.cat([batch.result for batch in batches if batch.result is not None])
        return ImageFeatures(data, self._signature())

    def encode_readable_images(
        self, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[ImageFeatures, dict[int, str]]:
        """Encode the images that can be read and skip the others.

        Returns:
            The features, in order, and the reasons why the other images cannot be read, by index.
        """
        images = _as_list(images)
        _check_images(images)
        errors: dict[int, str] = {}
        parts: list[Tensor] = []
        for batch in image_batches(self, images, batch_size, lambda features, indices: features, True):
            errors |= batch.errors
            if batch.result is not None:
                parts.append(batch.result)
        return ImageFeatures(torch.cat(parts) if parts else torch.empty(0), self._signature()), errors

    def encode_prompts(self, prompts: Sequence[str], *, batch_size: int | None = None) -> PromptFeatures:
        """Encode prompts to score them many times; return their features on the CPU."""
        prompts = _as_list(prompts)
        token_ids, mask = self.tokenizer(prompts)  # (P, L) each
        size = 8 * checked_batch_size(batch_size, self.device)

        @torch.no_grad()
        def encoded(indices: range) -> Tensor | None:
            batch = slice(indices.start, indices.stop)
            data = self.encode_tokens(token_ids[batch].to(self.device), mask[batch].to(self.device))
            return None if data is None else data.cpu()

        parts = [part for part in in_batches(encoded, len(token_ids), size) if part is not None]
        data = torch.cat(parts) if parts else None
        return PromptFeatures(tuple(prompts), token_ids, mask, data, self._prompts_signature())

    def _pair_scorer(self, prompts: PromptFeatures) -> Callable[[Tensor, list[int]], Tensor]:
        """Return a function from image features and their indices to rewards (B,)."""

        def rewards(features: Tensor, indices: list[int]) -> Tensor:
            return self._pairs(self.path().project_kv(features), prompts[indices].to(self.device))

        return rewards

    def _pairs(self, cross_attention_kv: Any, prompts: PromptFeatures) -> Tensor:
        """Return the rewards (B,) of B images with one prompt each."""
        token_ids, mask = prompts.trimmed()
        return self.path().rewards(cross_attention_kv, token_ids, mask).float()

    def _matrix(self, cross_attention_kv: Any, count: int, prompts: PromptFeatures) -> Tensor:
        """Return the rewards (P, B) of B = ``count`` images with all prompts."""
        rewards = torch.empty(len(prompts), count, device=self.device)
        most = max(1, _TOKENS_PER_BATCH.get(self.device.type, 65536) // count)
        for indices, token_ids in prompts.by_length(most):  # equal lengths need no padding and no mask
            batch = self.path().rewards(cross_attention_kv, token_ids.repeat(count, 1), None)
            rewards[indices] = batch.float().view(count, len(indices)).T
        return rewards

    def _prompt_features(self, prompts: Sequence[str] | PromptFeatures) -> PromptFeatures:
        return prompts if isinstance(prompts, PromptFeatures) else self.encode_prompts(prompts)

    def _signature(self) -> str:
        """Return an identifier of everything that image features depend on."""
        return f"{type(self).__name__} {self.config.to_dict()} {self._weights_fingerprint()}"

    _fingerprint: tuple[WeightsWatch, str] | None = None

    def _weights_fingerprint(self) -> str:
        watch, fingerprint = self._fingerprint or (WeightsWatch(self.feature_parameters), "")
        if watch.changed():
            fingerprint = weights_fingerprint(self.feature_parameters())
            self._fingerprint = watch, fingerprint
        return fingerprint

    def _prompts_signature(self) -> str:
        """Return an identifier of everything that prompt features depend on.

        It leaves out the weights if prompts are only tokenized.
        """
        return f"{type(self).__name__} {self.config.to_dict()}"

    def _check_prompts(self, prompts: Sequence[str] | PromptFeatures) -> None:
        if not isinstance(prompts, PromptFeatures):
            check_prompts(prompts)
        elif prompts.model != self._prompts_signature():
            raise InputError(
                "Cannot use prompt features of another model. Encode the prompts with this model."
            )
        elif not len(prompts):
            raise InputError("no prompts given")

    def _check_image_source(
        self, images: Sequence[ImageSource] | ImageFeatures, prompts: int | None = None
    ) -> None:
        if not isinstance(images, ImageFeatures):
            _check_images(images)
        elif images.model != self._signature():
            raise InputError("Cannot use image features of another model. Encode the images with this model.")
        if prompts is not None:
            _check_counts(prompts, len(images))
        if not len(images):
            raise InputError("no images given")


def _as_list(items: Any) -> Any:
    """Return a pandas column as a list, and anything else unchanged.

    ``column[i]`` looks up the row labeled i, which is not row i of a sorted or filtered table.
    """
    return items.tolist() if hasattr(items, "iloc") and hasattr(items, "tolist") else items


def _check_images(images: Sequence[ImageSource]) -> None:
    """Raise InputError unless ``images`` is a list.

    A single path would be read as a list of letters.
    """
    if isinstance(images, Tensor):
        raise InputError("Cannot score images: expected a list, got a tensor. Pass tensors to encode_pixels.")
    if isinstance(images, (str, bytes, dict)) or not hasattr(images, "__len__"):
        raise InputError(f"Cannot score images: expected a list, got {type(images).__name__}.")


def _check_counts(prompts: int, images: int) -> None:
    if prompts != images:
        raise InputError(f"{prompts} prompts but {images} images")


def _pair_name(prompt: str, images: Sequence[ImageSource] | ImageFeatures, i: int) -> str:
    name = f"image {i}" if isinstance(images, ImageFeatures) else image_name(images[i])
    return f"{name} with prompt {quoted(prompt)}"
