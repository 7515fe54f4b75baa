"""Everything that gives a number to (prompt, image): the protocol, and the doors all scorers share.

A model implements three steps: ``encode_images``, ``remember`` (what of it is the same for all prompts)
and ``rewards_from_memory``; batching, ranking and reading of files are written once, here.

Letters in shape comments: B batch, N pairs or images, P prompts, S image side, L text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from .errors import ImageError, InputError, NonFiniteRewardError
from .image_features import ImageFeatures
from .image_file import ImageSource, image_name, open_image
from .image_transform import ImageTransform
from .precision import apply_precision
from .tokenizer import PromptTokenizer, check_prompts

T = TypeVar("T")


@runtime_checkable
class Scorer(Protocol):
    """What benchmark, trainers and plugins rely on; any class with these four doors will do."""

    def score(self, prompt: str, image: ImageSource | Sequence[ImageSource]) -> float | list[float]: ...

    def inference_rank(self, prompt: str, images: Sequence[ImageSource]) -> tuple[list[int], list[float]]: ...

    def score_pairs(self, prompts: Sequence[str], images: Sequence[ImageSource]) -> Tensor: ...

    def score_matrix(self, prompts: Sequence[str], images: Sequence[ImageSource]) -> Tensor: ...


@dataclass(frozen=True)
class ScoredRow:
    """One (prompt, image) of a long run: a score, or the error that kept it from having one."""

    prompt: str
    image: str
    score: float | None
    error: str | None = None


class ScoringModel(nn.Module, ABC):
    """A model with the scoring doors.

    The scoring doors (score, inference_rank, score_pairs, score_matrix, score_rows) compute without
    gradients, in batches, and answer on the CPU. The tensor doors (calling the model,
    rewards_from_pixels) answer on the model's device and let gradients pass to the pixels.
    """

    transform: ImageTransform
    tokenizer: PromptTokenizer

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> image features (B, ...), whatever the next step reads."""

    def remember(self, features: Tensor) -> Any:
        """Image features (B, ...) -> whatever of their use is the same for every prompt."""
        return features

    @abstractmethod
    def rewards_from_memory(self, memory: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """What ``remember`` gave, token ids (B, L), mask (B, L) -> rewards (B,) float32."""

    def rewards_from_features(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Image features (B, ...), token ids (B, L), mask (B, L) -> rewards (B,) float32."""
        return self.rewards_from_memory(self.remember(features), token_ids, mask)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Bring the encoders' matrices to a dtype, in place (see precision.py)."""
        apply_precision(self, dtype)

    # Tensor doors

    def forward(self, pixels: Tensor, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised pixels (B, 3, S, S), token ids (B, L), mask (B, L) -> rewards (B,)."""
        return self.rewards_from_features(self.encode_images(pixels), token_ids, mask)

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards of float pictures, differentiable with respect to them.

        Args:
            pixels: (B, 3, H, W) in [0, 1], any H and W.
            prompts: B strings.

        Returns:
            (B,) float32 on the model's device.
        """
        token_ids, mask = self.tokenizer(prompts)
        if len(pixels) != len(token_ids):
            raise InputError(f"{len(prompts)} prompts but {len(pixels)} pictures")
        return self(self.transform(pixels.to(self.device)), token_ids.to(self.device), mask.to(self.device))

    # Scoring doors

    def score(
        self, prompt: str, image: ImageSource | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> float | list[float]:
        """Reward of one picture (a float) or of each picture in a list (a list, also of one).

        A picture is a path or a PIL image. For ImageReward-v1.0 rewards are about N(0, 1) over
        generated pictures; ``percentile`` puts them in place.
        """
        if isinstance(image, (list, tuple)):
            return self.score_matrix([prompt], image, batch_size=batch_size)[0].tolist()
        return self.score_matrix([prompt], [image], batch_size=batch_size).item()

    def inference_rank(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[list[int], list[float]]:
        """(ranking, rewards): the place of each picture (1 is best) and its reward, in input order.

        Equal rewards are ranked in input order. Both are lists, also for one picture.
        """
        rewards = self.score_matrix([prompt], images, batch_size=batch_size)[0].tolist()
        return ranking(rewards), rewards

    def score_pairs(
        self,
        prompts: Sequence[str],
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Rewards (N,) float32 on the CPU of prompt i with picture i.

        ``images`` may be what ``image_features`` gave for them; then none is encoded again.

        ``batch_size`` limits how many pairs are computed at once (default: 8 on a CPU, 64 on a
        GPU); when memory runs out it is halved and the work goes on.
        """
        check_prompts(prompts)
        if not isinstance(images, ImageFeatures):
            _check_images(images)
        if len(prompts) != len(images):
            raise InputError(f"{len(prompts)} prompts but {len(images)} pictures")
        self._check_pictures(images)
        tokens = self.tokenizer(prompts)

        def batch(indices: range) -> Tensor:
            if isinstance(images, ImageFeatures):
                token_ids, mask = (t[indices.start : indices.stop].to(self.device) for t in tokens)
                features = self._features(images[indices])
                return self.rewards_from_features(features, token_ids, mask).float().cpu()
            return self._score_pixels(tokens, indices, [self._open(images[i]) for i in indices])

        rewards = torch.cat(list(self._batched(batch, range(len(images)), batch_size)))
        return _finite(rewards, lambda i: _pair_name(prompts[i], _name(images, i)))

    def score_matrix(
        self,
        prompts: Sequence[str],
        images: Sequence[ImageSource] | ImageFeatures,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Rewards (P, N) float32 on the CPU of every prompt with every picture, each encoded once.

        ``images`` may be what ``image_features`` gave for them; then none is encoded again.
        """
        check_prompts(prompts)
        self._check_pictures(images)
        token_ids, mask = self.tokenizer(prompts)

        def columns(batch: Sequence[ImageSource] | ImageFeatures) -> Tensor:
            memory = self.remember(self._features(batch))
            rows = []
            for ids, length in zip(token_ids, mask.sum(1).tolist()):
                # One prompt at a time, at its true length: the memory is shared, not copied.
                ids = ids[:length].to(self.device).expand(len(batch), -1)  # (B, L)
                rows.append(self.rewards_from_memory(memory, ids, None))
            return torch.stack(rows).float().cpu()  # (P, B)

        rewards = torch.cat(list(self._batched(columns, images, batch_size)), dim=1)
        width = len(images)
        return _finite(rewards, lambda i: _pair_name(prompts[i // width], _name(images, i % width)))

    def image_features(
        self, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> ImageFeatures:
        """The pictures as this model sees them, on the CPU, for ``score_matrix`` to reuse.

        For ImageReward-v1.0 they take 0.8 MB a picture.
        """
        self._check_pictures(images)
        parts = [f.cpu() for f in self._batched(self._features, images, batch_size)]
        return ImageFeatures(torch.cat(parts), self._signature())

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """score_pairs for long runs: yields a row per pair, in order; a bad picture becomes a row
        with its error and stops nothing."""
        check_prompts(prompts)
        _check_images(images)
        if len(prompts) != len(images):
            raise InputError(f"{len(prompts)} prompts but {len(images)} pictures")

        tokens = self.tokenizer(prompts)

        def rows(indices: range) -> list[ScoredRow]:
            pixels: dict[int, Tensor] = {}
            errors: dict[int, str] = {}
            for i in indices:
                try:
                    pixels[i] = self._open(images[i])
                except ImageError as error:
                    errors[i] = error.reason
            rewards = (
                self._score_pixels(tokens, list(pixels), list(pixels.values())) if pixels else torch.empty(0)
            )
            _finite(rewards, lambda k: _pair_name(prompts[list(pixels)[k]], images[list(pixels)[k]]))
            scores = dict(zip(pixels, rewards.tolist()))
            return [
                ScoredRow(prompts[i], image_name(images[i]), scores.get(i), errors.get(i)) for i in indices
            ]

        for batch in self._batched(rows, range(len(images)), batch_size):
            yield from batch

    # Steps

    def _signature(self) -> str:
        return f"{type(self).__name__} {self.config.to_dict()}"

    def _check_pictures(self, images: Sequence[ImageSource] | ImageFeatures) -> None:
        if isinstance(images, ImageFeatures):
            if images.model != self._signature():
                raise InputError("these image features are of another model")
        else:
            _check_images(images)
        if not len(images):
            raise InputError("no pictures given")

    def _features(self, images: Sequence[ImageSource] | ImageFeatures) -> Tensor:
        """Features (B, ...) of some pictures on the model's device."""
        if isinstance(images, ImageFeatures):
            return images.data.to(self.device)
        return self.encode_images(torch.stack([self._open(image) for image in images]).to(self.device))

    def _open(self, image: ImageSource) -> Tensor:
        picture = open_image(image)
        try:
            return self.transform.from_pil(picture)
        except ValueError as error:
            raise ImageError(image_name(image), f"cannot be turned into RGB: {error}") from error

    def _score_pixels(
        self, tokens: tuple[Tensor, Tensor], rows: Sequence[int], pixels: Sequence[Tensor]
    ) -> Tensor:
        """Rewards on the CPU of ``pixels`` with the prompts at ``rows`` of all ``tokens``."""
        token_ids, mask = (t[list(rows)] for t in tokens)
        longest = int(mask.sum(1).max())  # padding that the whole batch shares is left out
        token_ids, mask = token_ids[:, :longest].to(self.device), mask[:, :longest].to(self.device)
        return self(torch.stack(list(pixels)).to(self.device), token_ids, mask).float().cpu()

    @torch.no_grad()
    def _batched(
        self, compute: Callable[[Sequence], T], items: Sequence, batch_size: int | None
    ) -> Iterator[T]:
        """compute(items[a:b]) over all items; a batch that does not fit in memory is halved."""
        size = (8 if self.device.type == "cpu" else 64) if batch_size is None else batch_size
        if not isinstance(size, Integral) or size < 1:
            raise InputError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        start = 0
        while start < len(items):
            try:
                result = compute(items[start : start + size])
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not _is_out_of_memory(error):
                    raise
                size //= 2
                continue
            yield result
            start += size


def ranking(rewards: Sequence[float]) -> list[int]:
    """Place of each reward, 1 for the highest; equal rewards in input order."""
    best_first = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    places = [0] * len(rewards)
    for place, i in enumerate(best_first, start=1):
        places[i] = place
    return places


def _check_images(images: Sequence[ImageSource]) -> None:
    """Raise unless ``images`` is a list of pictures; one path would be taken for a list of letters."""
    if isinstance(images, (str, bytes, dict)) or not hasattr(images, "__len__"):
        raise InputError(f"a list of pictures was expected, got {type(images).__name__}")


def _name(images: Sequence[ImageSource] | ImageFeatures, i: int) -> ImageSource:
    return f"picture {i}" if isinstance(images, ImageFeatures) else images[i]


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On the CPU (and on mps) torch raises a plain RuntimeError; the last words are oneDNN's.
    signs = ("allocate memory", "out of memory", "could not create a primitive")
    return any(sign in str(error) for sign in signs)


def _pair_name(prompt: str, image: ImageSource) -> str:
    return f"{image_name(image)} with prompt {prompt!r}"


def _finite(rewards: Tensor, name: Callable[[int], str]) -> Tensor:
    """The rewards, or an error naming the first pair whose reward is NaN or infinite."""
    bad = (~rewards.isfinite()).flatten().nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise NonFiniteRewardError(
            f"the reward of {name(i)} is {rewards.flatten()[i].item()}: "
            "the model's weights (or the pixels given) are not finite numbers"
        )
    return rewards
