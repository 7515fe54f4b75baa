"""The protocol of scorers: everything that rates an image for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..inputs.image_file import ImageSource


@runtime_checkable
class Scorer(Protocol):
    """A scorer for benchmarks, trainers and plugins: any class with these methods."""

    def score(self, prompt: str, image: ImageSource | Sequence[ImageSource]) -> float | list[float]: ...

    def inference_rank(self, prompt: str, images: Sequence[ImageSource]) -> tuple[list[int], list[float]]: ...

    def score_pairs(self, prompts: Sequence[str], images: Sequence[ImageSource]) -> Tensor: ...

    def score_matrix(self, prompts: Sequence[str], images: Sequence[ImageSource]) -> Tensor: ...
