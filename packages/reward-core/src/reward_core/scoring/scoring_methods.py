"""The methods that all models share: prompts and images in, rewards on the CPU out, in batches.

Letters in shape comments: B batch, N pairs or images, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files.score_file import ScoredRow
from ..inputs.image_file import ImageSource, image_name
from ..inputs.tokenizer import check_prompts
from ..runs.caller_warning import quoted
from .batching import checked_batch_size, in_batches
from .features import ImageFeatures, PromptFeatures
from .pipeline import image_batches
from .rewards import checked_finite, ranking
from .weights_identity import WeightsWatch, weights_fingerprint

# Texts are read so many tokens at a time, which bounds what they take of memory.
_TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 65536}


class ScoringMethods:
    """What `ScoringModel` adds to a model's steps."""

    _fingerprint: tuple[WeightsWatch, str] | None = None

    def score(
        self, prompt: str, image: ImageSource | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> float | list[float]:
        """Reward of one image (a float) or of each image in a list (a list, also of one).

        An image is a path or a PIL image. For ImageReward-v1.0 rewards are about N(0, 1) over
        generated images; ``percentile`` puts them in place.
        """
        image = _by_position(image)
        if isinstance(image, (list, tuple)):
            return self.score_matrix([prompt], image, batch_size=batch_size)[0].tolist()
        return self.score_matrix([prompt], [image], batch_size=batch_size).item()

    def inference_rank(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[list[int], list[float]]:
        """(ranking, rewards): the place of each image (1 is best) and its reward, in input order.

        Equal rewards are ranked in input order. Both are lists, also for one image.
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
        """Rewards (N,) float32 on the CPU of prompt i with image i.

        Either may be what ``encode_prompts`` and ``encode_images`` gave; then none is encoded again.

        ``batch_size`` limits how many pairs are computed at once (default: 8 on a CPU, 64 on a
        GPU); when memory runs out it is halved and the work goes on.
        """
        prompts, images = _by_position(prompts), _by_position(images)
        self._check_prompts(prompts)
        self._check_image_source(images, len(prompts))
        read = self._read(prompts)

        def pairs(features: Tensor, indices: list[int]) -> Tensor:
            return self._pairs(self.path().project_kv(features), read[indices].to(self.device))

        batches = image_batches(self, images, batch_size, pairs)
        rewards = torch.cat([batch.result for batch in batches])
        return checked_finite(rewards, lambda i: _pair_name(read.prompts[i], images, i))

    def score_matrix(
        self,
        prompts: Sequence[str] | PromptFeatures,
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Rewards (P, N) float32 on the CPU of every prompt with every image, each encoded once.

        Either may be what ``encode_prompts`` and ``encode_images`` gave; then none is encoded again.
        """
        prompts, images = _by_position(prompts), _by_position(images)
        self._check_prompts(prompts)
        self._check_image_source(images)
        read = self._read(prompts)
        here = read.to(self.device)

        def columns(features: Tensor, indices: list[int]) -> Tensor:
            return self._matrix(self.path().project_kv(features), len(indices), here)  # (P, B)

        batches = image_batches(self, images, batch_size, columns)
        rewards = torch.cat([batch.result for batch in batches], dim=1)
        width = len(images)
        return checked_finite(rewards, lambda i: _pair_name(read.prompts[i // width], images, i % width))

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """score_pairs for long runs: yields a row per pair, in order; a bad image becomes a row
        with its error and stops nothing."""
        prompts, images = _by_position(prompts), _by_position(images)
        check_prompts(prompts)
        _check_images(images)
        _check_counts(len(prompts), len(images))
        read = self.encode_prompts(prompts)

        def pairs(features: Tensor, indices: list[int]) -> Tensor:
            return self._pairs(self.path().project_kv(features), read[indices].to(self.device))

        for batch in image_batches(self, images, batch_size, pairs, keep_errors=True):
            scores: dict[int, float] = {}
            if batch.result is not None:
                scored = batch.scored
                checked_finite(batch.result, lambda k: _pair_name(prompts[scored[k]], images, scored[k]))  # noqa: B023
                scores = dict(zip(scored, batch.result.tolist()))
            for i in batch.indices:
                yield ScoredRow(prompts[i], image_name(images[i]), scores.get(i), batch.errors.get(i))

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int | None = None) -> ImageFeatures:
        """The images as this model sees them, on the CPU, for the scoring methods to reuse.

        For ImageReward-v1.0 they take 0.8 MB an image. (``encode_pixels`` is the step for tensors.)
        """
        images = _by_position(images)
        self._check_image_source(images)
        batches = image_batches(self, images, batch_size, lambda features, indices: features)
        return ImageFeatures(torch.cat([batch.result for batch in batches]), self._signature())

    def encode_prompts(self, prompts: Sequence[str], *, batch_size: int | None = None) -> PromptFeatures:
        """The prompts as this model reads them, on the CPU, for the scoring methods to reuse."""
        prompts = _by_position(prompts)
        token_ids, mask = self.tokenizer(prompts)
        size = 8 * checked_batch_size(batch_size, self.device)

        @torch.no_grad()
        def encoded(indices: range) -> Tensor | None:
            some = slice(indices.start, indices.stop)
            data = self.encode_tokens(token_ids[some].to(self.device), mask[some].to(self.device))
            return None if data is None else data.cpu()

        parts = list(in_batches(encoded, len(token_ids), size))
        data = None if parts[0] is None else torch.cat(parts)
        return PromptFeatures(tuple(prompts), token_ids, mask, data, self._prompts_signature())

    def _pairs(self, cross_attention_kv: Any, prompts: PromptFeatures) -> Tensor:
        """Rewards (B,) of remembered images, each with its own prompt."""
        token_ids, mask = prompts.trimmed()  # padding that the whole batch shares is left out
        return self.path().rewards(cross_attention_kv, token_ids, mask).float()

    def _matrix(self, cross_attention_kv: Any, count: int, prompts: PromptFeatures) -> Tensor:
        """Rewards (P, B) of ``count`` remembered images with all prompts."""
        rewards = torch.empty(len(prompts), count, device=self.device)
        tokens = max(1, _TOKENS_AT_ONCE.get(self.device.type, 65536) // count)
        for indices, token_ids in prompts.by_length(tokens):
            # At their true length; the memory is shared by all of them, not copied.
            found = self.path().rewards(cross_attention_kv, token_ids.repeat(count, 1), None)
            rewards[indices] = found.float().view(count, len(indices)).T
        return rewards

    def _read(self, prompts: Sequence[str] | PromptFeatures) -> PromptFeatures:
        return prompts if isinstance(prompts, PromptFeatures) else self.encode_prompts(prompts)

    def _signature(self) -> str:
        """What features of images depend on."""
        return f"{type(self).__name__} {self.config.to_dict()} {self._weights_fingerprint()}"

    def _weights_fingerprint(self) -> str:
        watch = WeightsWatch(self.feature_parameters) if self._fingerprint is None else self._fingerprint[0]
        if watch.changed():
            self._fingerprint = watch, weights_fingerprint(self.feature_parameters())
        return self._fingerprint[1]

    def _prompts_signature(self) -> str:
        """What features of prompts depend on: of a model that reads them beside images, no weights."""
        return f"{type(self).__name__} {self.config.to_dict()}"

    def _check_prompts(self, prompts: Sequence[str] | PromptFeatures) -> None:
        if not isinstance(prompts, PromptFeatures):
            check_prompts(prompts)
        elif prompts.model != self._prompts_signature():
            raise InputError("these prompt features are of another model")
        elif not len(prompts):
            raise InputError("no prompts given")

    def _check_image_source(
        self, images: Sequence[ImageSource] | ImageFeatures, prompts: int | None = None
    ) -> None:
        if not isinstance(images, ImageFeatures):
            _check_images(images)
        elif images.model != self._signature():
            raise InputError("these image features are of another model")
        if prompts is not None:
            _check_counts(prompts, len(images))
        if not len(images):
            raise InputError("no images given")


def _by_position(items: Any) -> Any:
    """A column of a pandas table as a list: its own [i] goes by the row's label, which rows keep when a
    table is sorted or cut."""
    return items.tolist() if hasattr(items, "iloc") and hasattr(items, "tolist") else items


def _check_images(images: Sequence[ImageSource]) -> None:
    """Raise unless ``images`` is a list of images; one path would be taken for a list of letters."""
    if isinstance(images, Tensor):
        raise InputError("a list of images was expected, got a tensor; tensors go through encode_pixels")
    if isinstance(images, (str, bytes, dict)) or not hasattr(images, "__len__"):
        raise InputError(f"a list of images was expected, got {type(images).__name__}")


def _check_counts(prompts: int, images: int) -> None:
    if prompts != images:
        raise InputError(f"{prompts} prompts but {images} images")


def _pair_name(prompt: str, images: Sequence[ImageSource] | ImageFeatures, i: int) -> str:
    name = f"image {i}" if isinstance(images, ImageFeatures) else image_name(images[i])
    return f"{name} with prompt {quoted(prompt)}"
