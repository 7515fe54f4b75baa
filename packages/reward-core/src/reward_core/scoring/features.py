"""Cached features: images and prompts encoded once and scored many times.

Shapes: B images, P prompts, N image tokens, E image width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of B images. Scoring methods accept them instead of images.

    Attributes:
        data: image tokens (B, N, E) of a reward model; unit vectors (B, ...) of a two-tower model.
        model: signature of the model (class, configuration and weights) that computed the features.
            Other models refuse them.
    """

    data: Tensor
    model: str

    def __repr__(self) -> str:
        return f"ImageFeatures({_shown(self.data)}, model={self.model.split(' ', 1)[0]})"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> ImageFeatures:
        """Return the features of some images, by slice or by a list of indices."""
        return ImageFeatures(self.data[_as_index(index)], self.model)

    def to(self, *args, **kwargs) -> ImageFeatures:
        """Return the features on another device or in another dtype (``Tensor.to``)."""
        return ImageFeatures(self.data.to(*args, **kwargs), self.model)

    @classmethod
    def cat(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Concatenate features.

        Raises:
            InputError: features of different models.
        """
        model = _one_model(parts)
        return cls(torch.cat([part.data for part in parts]), model)


@dataclass(frozen=True, eq=False)
class PromptFeatures:
    """Features of P prompts. Scoring methods accept them instead of prompts.

    Attributes:
        prompts: the P strings.
        token_ids, mask: (P, L) int64; the mask is 1 at tokens, 0 at padding.
        data: unit vectors (P, ...) of a two-tower model. None for a reward model: its text encoder attends
            to the image, so only the tokens can be reused.
        model: signature of the model that computed the features. Other models refuse them.
    """

    prompts: tuple[str, ...]
    token_ids: Tensor
    mask: Tensor
    data: Tensor | None
    model: str

    def __repr__(self) -> str:
        data = "" if self.data is None else f", data={_shown(self.data)}"
        prompts = f"{len(self)} prompt{'s' * (len(self) != 1)}"
        tokens = f"{prompts}, tokens={_shown(self.token_ids)}"
        return f"PromptFeatures({tokens}{data}, model={self.model.split(' ', 1)[0]})"

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> PromptFeatures:
        """Return the features of some prompts, by slice or by a list of indices."""
        index = _as_index(index)
        selected = torch.arange(len(self))[index].tolist()
        return PromptFeatures(
            tuple(self.prompts[i] for i in selected),
            self.token_ids[index],
            self.mask[index],
            None if self.data is None else self.data[index],
            self.model,
        )

    def to(self, device: torch.device | str) -> PromptFeatures:
        """Return the features on another device."""
        data = None if self.data is None else self.data.to(device)
        return replace(self, token_ids=self.token_ids.to(device), mask=self.mask.to(device), data=data)

    @classmethod
    def cat(cls, parts: Sequence[PromptFeatures]) -> PromptFeatures:
        """Concatenate features.

        Raises:
            InputError: features of different models.
        """
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
        """Return token ids and mask, (P, longest) each, without common padding."""
        longest = int(self.mask.sum(1).max())
        return self.token_ids[:, :longest], self.mask[:, :longest]

    def by_length(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices and unpadded token ids of the prompts of each length."""
        lengths = self.mask.sum(1).tolist()
        for length in sorted(set(lengths)):
            indices = [i for i, prompt_length in enumerate(lengths) if prompt_length == length]
            yield indices, self.token_ids[indices, :length]


def _shown(tensor: Tensor) -> str:
    """Return the shape, dtype and device of a tensor."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _as_index(index):
    return list(index) if isinstance(index, range) else index


def _one_model(parts: Sequence[ImageFeatures] | Sequence[PromptFeatures]) -> str:
    models = {part.model for part in parts}
    if len(models) != 1:
        raise InputError(f"Cannot concatenate features: they are of different models: {sorted(models)}.")
    return models.pop()
