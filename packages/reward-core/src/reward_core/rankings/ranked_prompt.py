"""The one internal form of rankings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..inputs.image_file import ImageSource


@dataclass(frozen=True)
class RankedPrompt:
    """Images of one prompt with their places.

    ranks: one integer an image, 1 is best, equal where neither is preferred; gaps are allowed. Two
    images of different places are one comparison; two of the same place are none. utilities: how good
    each is, where the source says so (any scale, more is better). faults: the kinds of fault of each,
    likewise. objects: how many things the prompt names, likewise.

    Several of them may hold the same prompt; then each is a group of its own.
    """

    id: str
    prompt: str
    images: tuple[ImageSource, ...]
    ranks: tuple[int, ...]
    utilities: tuple[float, ...] | None = None
    faults: tuple[tuple[str, ...], ...] | None = None
    objects: int | None = None

    def only(self, indices: Sequence[int]) -> RankedPrompt:
        """The same prompt with some of its images, by index; places stay as they are."""
        return RankedPrompt(
            self.id,
            self.prompt,
            tuple(self.images[i] for i in indices),
            tuple(self.ranks[i] for i in indices),
            None if self.utilities is None else tuple(self.utilities[i] for i in indices),
            None if self.faults is None else tuple(self.faults[i] for i in indices),
            self.objects,
        )


def untied_pairs(ranks: Sequence[int]) -> int:
    """How many pairs of images differ in place."""
    tied = sum(n * (n - 1) // 2 for n in Counter(ranks).values())
    return len(ranks) * (len(ranks) - 1) // 2 - tied
