"""Scoring methods that all models share.

They compute in batches and return rewards on the CPU.

Shapes: B images in a batch, N pairs or images, P prompts, L text tokens.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files.score_file import ScoredRow
from ..inputs.image_file import ImageSource, image_name
from ..inputs.image_transform import ImageTransform
from ..inputs.tokenizer import PromptTokenizer, check_prompts
from ..runs.caller_warning import quoted
from .batching import checked_batch_size, collected, in_batches
from .features import ImageFeatures, PromptFeatures
from .image_batches import image_batches
from .pipeline import ahead
from .rewards import checked_finite, ranking
from .steps import ScoringPath
from .transfers import transfers_for
from .weights_identity import WeightsFingerprint

# Text tokens that the text encoder computes at once in score_matrix. By estimate, one takes 6 to 12 kB.
_TOKENS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 19}


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
    def path(self, reproducible: bool = False) -> ScoringPath:
        """Return the steps from images to rewards, eager or compiled."""

    @abstractmethod
    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return text features of prompts (P, L), or None if they depend on the image."""

    @abstractmethod
    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that cached features depend on."""

    def refused_images(self, features: Tensor) -> dict[int, str]:
        """Return why the model could not read some of B images, by index, from features (B, ...).

        Such an image has an error instead of a score.
        """
        return {}

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
        source: Any = as_list(image)
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
        prompts, images = as_list(prompts), as_list(images)
        self._check_prompts(prompts)
        self._check_image_source(images, len(prompts))
        encoded = self._prompt_features(prompts)
        rewards = self._computed(images, batch_size, self._pair_scorer(encoded))  # (N,)
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
        prompts, images = as_list(prompts), as_list(images)
        self._check_prompts(prompts)
        self._check_image_source(images)
        encoded = self._prompt_features(prompts)
        columns = self._computed(images, batch_size, lambda features, _: self._matrix(features, encoded))
        rewards = columns.T.contiguous()  # (P, N)
        width = len(images)
        return checked_finite(rewards, lambda i: _pair_name(encoded.prompts[i // width], images, i % width))

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """Yield a row for each pair, in order (``score_pairs`` for long runs).

        The row of an image that cannot be read holds the error instead of a score.
        """
        prompts, images = as_list(prompts), as_list(images)
        check_prompts(prompts)
        check_images(images)
        check_counts(len(prompts), len(images))
        compute = self._pair_scorer(self.encode_prompts(prompts))
        for result in image_batches(self, self.path(), images, batch_size, compute, keep_errors=True):
            scores: dict[int, float] = {}
            if result.values is not None:
                indices = [result.batch.indices[row] for row in result.rows]
                checked_finite(result.values, lambda k: _pair_name(prompts[indices[k]], images, indices[k]))  # noqa: B023
                scores = dict(zip(indices, result.values.tolist()))
            for row, i in enumerate(result.batch.indices):
                error = result.errors.get(row)
                yield ScoredRow(
                    prompts[i], image_name(images[i]), scores.get(i), None if error is None else error.reason
                )

    def encode_images(self, images: Sequence[ImageSource], *, batch_size: int | None = None) -> ImageFeatures:
        """Encode images to score them many times; return their features on the CPU.

        Features of ImageReward-v1.0 take 0.8 MB per image. (For tensors use ``encode_pixels``.)
        """
        images = as_list(images)
        self._check_image_source(images)
        return ImageFeatures(self._computed(images, batch_size, self._stored), self._signature())

    def encode_readable_images(
        self, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[ImageFeatures, dict[int, str]]:
        """Encode the images that can be read and skip the others.

        Returns:
            The features, in order, and the reasons why the other images cannot be read, by index.
        """
        images = as_list(images)
        check_images(images)
        errors: dict[int, str] = {}

        def parts() -> Iterator[Tensor | None]:
            for result in image_batches(
                self, self.path(), images, batch_size, self._stored, keep_errors=True
            ):
                errors.update({result.batch.start + row: e.reason for row, e in result.errors.items()})
                yield result.values

        features = collected(parts(), len(images))
        return ImageFeatures(torch.empty(0) if features is None else features, self._signature()), errors

    def encode_prompts(self, prompts: Sequence[str], *, batch_size: int | None = None) -> PromptFeatures:
        """Encode prompts to score them many times; return their features on the CPU."""
        prompts = as_list(prompts)
        token_ids, mask = self.tokenizer(prompts)  # (P, L) each
        return self._tokens_encoded(prompts, token_ids, mask, batch_size)

    def _tokens_encoded(
        self, prompts: Sequence[str], token_ids: Tensor, mask: Tensor, batch_size: int | None = None
    ) -> PromptFeatures:
        """Return the features of tokenized prompts."""
        size, transfers = 8 * checked_batch_size(batch_size, self.device), transfers_for(self.device)

        @torch.no_grad()
        def encoded(indices: range) -> Callable[[], Tensor] | None:
            batch = slice(indices.start, indices.stop)
            with transfers.active():
                data = self.encode_tokens(transfers.upload(token_ids[batch]), transfers.upload(mask[batch]))
                return None if data is None else transfers.fetch(data)

        launched = ahead(in_batches(encoded, len(token_ids), size), transfers.lag + 1)
        data = collected((None if wait is None else wait() for wait in launched), len(token_ids))
        return PromptFeatures(tuple(prompts), token_ids, mask, data, self._prompts_signature())

    def _computed(
        self,
        images: Sequence[ImageSource] | ImageFeatures,
        batch_size: int | None,
        compute: Callable[[Tensor, list[int]], Tensor],
    ) -> Tensor:
        """Return the results (N, ...) of ``compute`` for N images, on the CPU."""
        results = image_batches(self, self.path(), images, batch_size, compute)
        values = collected((result.values for result in results), len(images))
        assert values is not None  # there are images
        return values

    def _stored(self, features: Tensor, indices: list[int]) -> Tensor:
        """Return features as they are kept: in 16 bits if the model reads them in 16 bits."""
        return features.to(self.feature_dtype)

    @property
    def feature_dtype(self) -> torch.dtype:
        """Dtype in which the model reads image features."""
        return torch.float32

    def pair_scorer(self, prompts: Sequence[str]) -> Callable[[Tensor, list[int]], Tensor]:
        """Return a function from features (B, ...) and indices of B images to rewards (B,).

        Prompt i belongs to image i.
        """
        return self._pair_scorer(self.encode_prompts(prompts))

    def matrix_scorer(self, prompts: Sequence[str]) -> Callable[[Tensor, list[int]], Tensor]:
        """Return a function from features (B, ...) and indices of B images to rewards (B, P)."""
        encoded = self.encode_prompts(prompts)
        return lambda features, _: self._matrix(features, encoded)

    def _pair_scorer(self, prompts: PromptFeatures) -> Callable[[Tensor, list[int]], Tensor]:
        """Return a function from image features and their indices to rewards (B,)."""
        return lambda features, indices: self._pairs(features, prompts[indices])

    def _pairs(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        """Return the rewards (B,) of B images with one prompt each."""
        return self.path().pair_rewards(features, *prompts.trimmed()).float()

    def _matrix(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        """Return the rewards (B, P) of B images with all prompts."""
        count, path, transfers = len(features), self.path(), transfers_for(self.device)
        cross_attention_kv = path.project_kv(features)
        order: list[int] = []
        columns: list[Tensor] = []
        for indices, token_ids in prompts.by_length():  # equal lengths need no padding and no mask
            ids = transfers.upload(token_ids)  # (K, L)

            def scored(part: range, ids: Tensor = ids) -> Tensor:
                several = ids[part.start : part.stop].repeat(count, 1)
                return path.rewards(cross_attention_kv, several, None).float().view(count, len(part))

            most = _TOKENS_AT_ONCE.get(self.device.type, 1 << 15) // (count * token_ids.shape[1])
            columns += in_batches(scored, len(indices), max(1, most), path.release_memory)
            order += indices
        inverse = torch.empty(len(order), dtype=torch.int64)
        inverse[order] = torch.arange(len(order))
        return torch.cat(columns, dim=1).index_select(1, transfers.upload(inverse))

    def _prompt_features(self, prompts: Sequence[str] | PromptFeatures) -> PromptFeatures:
        """Return the features of prompts on the CPU, where batches are put together."""
        return prompts.to("cpu") if isinstance(prompts, PromptFeatures) else self.encode_prompts(prompts)

    def _signature(self) -> str:
        """Return an identifier of everything that image features depend on."""
        return f"{type(self).__name__} {self.config.to_dict()} {self._weights_fingerprint()}"

    _fingerprint: WeightsFingerprint | None = None

    def _weights_fingerprint(self) -> str:
        with self._first_use():
            self._fingerprint = self._fingerprint or WeightsFingerprint(self.feature_parameters)
        return self._fingerprint.get()

    def _first_use(self) -> AbstractContextManager[object]:
        """Return the lock of what a model builds at first use. It is built at first use, too."""
        lock: AbstractContextManager[object] = self.__dict__.setdefault("_lock", threading.RLock())
        return lock

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
            raise InputError("Cannot use the prompts: no prompts given.")

    def _check_image_source(
        self, images: Sequence[ImageSource] | ImageFeatures, prompts: int | None = None
    ) -> None:
        if not isinstance(images, ImageFeatures):
            check_images(images)
        elif images.model != self._signature():
            raise InputError("Cannot use image features of another model. Encode the images with this model.")
        if prompts is not None:
            check_counts(prompts, len(images))
        if not len(images):
            raise InputError("Cannot use the images: no images given.")


def as_list(items: Any) -> Any:
    """Return a pandas column as a list, and anything else unchanged.

    ``column[i]`` looks up the row labeled i, which is not row i of a sorted or filtered table.
    """
    return items.tolist() if hasattr(items, "iloc") and hasattr(items, "tolist") else items


def check_images(images: Sequence[ImageSource]) -> None:
    """Raise InputError unless ``images`` is a list.

    A single path would be read as a list of letters.
    """
    if isinstance(images, Tensor):
        raise InputError(
            "Cannot score images: expected a list, got a tensor. Pass float tensors in [0, 1] to "
            "rewards_from_pixels."
        )
    if getattr(getattr(images, "dtype", None), "kind", "") in "uifb" and hasattr(images, "ndim"):
        raise InputError(
            "Cannot score images: expected a list, got an array. Convert each image of 8-bit RGB with "
            "PIL.Image.fromarray."
        )
    if isinstance(images, (str, bytes, dict)) or not hasattr(images, "__len__"):
        raise InputError(f"Cannot score images: expected a list, got {type(images).__name__}.")


def check_counts(prompts: int, images: int) -> None:
    if prompts != images:
        raise InputError(
            f"Cannot score the pairs: got {prompts} prompts but {images} images. "
            "Give one prompt for each image."
        )


def _pair_name(prompt: str, images: Sequence[ImageSource] | ImageFeatures, i: int) -> str:
    name = f"image {i}" if isinstance(images, ImageFeatures) else image_name(images[i])
    return f"{name} with prompt {quoted(prompt)}"
