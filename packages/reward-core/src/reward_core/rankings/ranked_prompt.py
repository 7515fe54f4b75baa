"""The internal representation of rankings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..inputs.image_file import ImageSource


@dataclass(frozen=True)
class RankedPrompt:
    """A group: ranked images of one prompt. Several groups may have the same prompt.

    Attributes:
        id: id of the group.
        prompt: the prompt.
        images: the images.
        ranks: rank of each image; 1 is best, ties are equal, gaps are allowed. Two images of different
            ranks are one comparison, two of the same rank are none.
        utilities: quality of each image on any scale (higher is better), if the source has it.
        faults: kinds of fault of each image, if the source has them.
        objects: number of things that the prompt names, if the source has it.
    """

    id: str
    prompt: str
    images: tuple[ImageSource, ...]
    ranks: tuple[int, ...]
    utilities: tuple[float, ...] | None = None
    faults: tuple[tuple[str, ...], ...] | None = None
    objects: int | None = None

    def only(self, indices: Sequence[int]) -> RankedPrompt:
        """Return the group with only the images at these indices; their ranks do not change."""
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
    """Count the pairs of images with different ranks."""
    tied = sum(n * (n - 1) // 2 for n in Counter(ranks).values())
    return len(ranks) * (len(ranks) - 1) // 2 - tied
