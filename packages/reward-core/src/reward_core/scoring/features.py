"""Images and prompts once encoded, kept for as many scores as one likes.

Letters in shape comments: B images, P prompts, N image tokens, E image width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What a model has seen in B images; the scoring methods take it in place of the images.

    data: (B, N, E) image tokens of a reward model, (B, ...) unit vectors of a two-tower baseline.
    model: which model made it, by kind, configuration and weights; features of another are refused.
    """

    data: Tensor
    model: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> ImageFeatures:
        """Some of the images, by slice or by a list of indices."""
        return ImageFeatures(self.data[_as_index(index)], self.model)

    def to(self, *args, **kwargs) -> ImageFeatures:
        """On another device or in another precision, as ``Tensor.to``."""
        return ImageFeatures(self.data.to(*args, **kwargs), self.model)

    @classmethod
    def cat(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Several lots of images as one. Raises InputError if they are of different models."""
        model = _one_model(parts)
        return cls(torch.cat([part.data for part in parts]), model)


@dataclass(frozen=True, eq=False)
class PromptFeatures:
    """What a model has read of P prompts; the scoring methods take it in place of the prompts.

    prompts: the P strings.
    token_ids, mask: (P, L) int64, the mask 1 at real tokens.
    data: (P, ...) unit vectors of a two-tower baseline; None for a reward model, which reads a prompt
    beside each image, so that nothing but its tokens is the same for all images.
    model: which model made it; features of another are refused.
    """

    prompts: tuple[str, ...]
    token_ids: Tensor
    mask: Tensor
    data: Tensor | None
    model: str

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> PromptFeatures:
        """Some of the prompts, by slice or by a list of indices."""
        index = _as_index(index)
        chosen = torch.arange(len(self))[index].tolist()
        return PromptFeatures(
            tuple(self.prompts[i] for i in chosen),
            self.token_ids[index],
            self.mask[index],
            None if self.data is None else self.data[index],
            self.model,
        )

    def to(self, device: torch.device | str) -> PromptFeatures:
        """On another device."""
        data = None if self.data is None else self.data.to(device)
        return replace(self, token_ids=self.token_ids.to(device), mask=self.mask.to(device), data=data)

    @classmethod
    def cat(cls, parts: Sequence[PromptFeatures]) -> PromptFeatures:
        """Several lots of prompts as one. Raises InputError if they are of different models."""
        model = _one_model(parts)
        width = max(part.token_ids.shape[1] for part in parts)

        def padded(tokens: Tensor) -> Tensor:
            return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))

        encoded = [part.data for part in parts if part.data is not None]
        data = torch.cat(encoded) if encoded else None
        return cls(
            tuple(prompt for part in parts for prompt in part.prompts),
            torch.cat([padded(part.token_ids) for part in parts]),
            torch.cat([padded(part.mask) for part in parts]),
            data,
            model,
        )

    def trimmed(self) -> tuple[Tensor, Tensor]:
        """(token ids, mask) without the padding that all share, (P, longest)."""
        longest = int(self.mask.sum(1).max())
        return self.token_ids[:, :longest], self.mask[:, :longest]

    def by_length(self, most: int) -> Iterator[tuple[list[int], Tensor]]:
        """Groups of prompts of one length, ``most`` at a time: (their places, token ids without padding)."""
        lengths = self.mask.sum(1).tolist()
        for length in sorted(set(lengths)):
            indices = [i for i, own in enumerate(lengths) if own == length]
            for start in range(0, len(indices), most):
                some = indices[start : start + most]
                yield some, self.token_ids[some, :length]


def _as_index(index):
    return list(index) if isinstance(index, range) else index


def _one_model(parts: Sequence[ImageFeatures] | Sequence[PromptFeatures]) -> str:
    models = {part.model for part in parts}
    if len(models) != 1:
        raise InputError(f"features of one model were expected, got {sorted(models)}")
    return models.pop()
