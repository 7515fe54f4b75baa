"""Groups of images -> what a forward pass takes; what cannot be read is left out and listed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ImageError, InputError
from ..inputs.clipped_levels import FirstClippedImage
from ..inputs.image_file import decoded_image, image_name, rgb_guard
from ..inputs.image_transform import ImageTransform
from ..rankings import RankedPrompt, untied_pairs
from .batch_plan import MicroBatch
from .token_cache import TokenCache

Reword = Callable[[RankedPrompt, int], str]


@dataclass(frozen=True)
class ReadGroup:
    """A group as far as it can be read: its images (K, S, S, 3) uint8, or their kept tokens (K, N, E).

    image_indices: which of the record's images these are; slots: their numbers in the cache.
    """

    number: int
    prompt: str
    ranks: tuple[int, ...]
    image_indices: tuple[int, ...]
    slots: tuple[int, ...]
    images: Tensor | None
    tokens: Tensor | None


class GroupReader:
    """Reads groups by number, in threads ahead of the computation.

    Attributes:
        groups: the records.
        skipped: images that could not be read so far, by ``called``, with the reason.
        pairs: untied pairs of each group.

    Args:
        groups: records with untied pairs.
        transform: to the model's pixels.
        reword: (record, epoch) -> the prompt to use in that epoch; by default always the record's own.
        workers: threads.
        split: what the groups are of, for the names of images that have none.
    """

    def __init__(
        self,
        groups: Sequence[RankedPrompt],
        transform: ImageTransform,
        reword: Reword | None = None,
        workers: int = 4,
        split: str = "data",
    ):
        self.split = split
        self.groups, self.transform, self.reword = list(groups), transform, reword
        self.skipped: dict[str, str] = {}
        self.first_clipped = FirstClippedImage()
        self.pairs = [untied_pairs(group.ranks) for group in self.groups]
        self.cache: TokenCache | None = None
        counts = [len(group.images) for group in self.groups]
        self.first_slot = np.cumsum([0, *counts]).tolist()
        self._threads = ThreadPoolExecutor(workers, "pictures")

    @property
    def images(self) -> list:
        return [image for group in self.groups for image in group.images]

    def called(self, number: int, i: int) -> str:
        """Image ``i`` of group ``number``: its name, or where it stands if it has none."""
        image = self.groups[number].images[i]
        if isinstance(image, Image.Image) and not getattr(image, "filename", ""):
            return f"{image_name(image)} ({self.split} group {number}, image {i})"
        return image_name(image)

    def start(self, batch: MicroBatch, epoch: int) -> list[Future[ReadGroup | None]]:
        """Begin to read some groups."""
        return [self._threads.submit(self.read, number, epoch) for number in batch]

    def read(self, number: int, epoch: int = 0) -> ReadGroup | None:
        """Group ``number``; None where fewer than two images, or only tied ones, can be read."""
        group = self.groups[number]
        good = [i for i in range(len(group.images)) if self.called(number, i) not in self.skipped]
        tokens = None
        if self.cache is not None:
            tokens = self.cache.get([self.first_slot[number] + i for i in good])
        images: dict[int, np.ndarray] = {}
        for i in good if tokens is None else ():
            try:
                name = self.called(number, i)
                with decoded_image(group.images[i], warn=False) as image, rgb_guard(name):
                    self.first_clipped.check(image, name)
                    images[i] = self.transform.to_uint8(image)
            except ImageError as error:
                self.skipped[name] = error.reason
        image_indices = tuple(good if tokens is not None else images)
        ranks = tuple(group.ranks[i] for i in image_indices)
        if not untied_pairs(ranks):
            return None
        return ReadGroup(
            number,
            group.prompt if self.reword is None else self.reword(group, epoch),
            ranks,
            image_indices,
            tuple(self.first_slot[number] + i for i in image_indices),
            None if tokens is not None else torch.from_numpy(np.stack([images[i] for i in image_indices])),
            tokens,
        )

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Usable:
    """Records fit for training, and what was left out of them.

    missing: images that are no files or empty ones; dropped: groups left with fewer than two images;
    tied: groups in which nobody prefers any image.
    """

    groups: list[RankedPrompt]
    missing: dict[str, str]
    dropped: int
    tied: int


def usable_groups(groups: Sequence[RankedPrompt], source: str) -> Usable:
    """The records without absent or empty files, as far as that leaves something to compare.

    Raises:
        InputError: nothing is left; it says why.
    """
    missing: dict[str, str] = {}
    left, dropped, tied = [], 0, 0
    for group in groups:
        good = []
        for i, image in enumerate(group.images):
            reason = _absent(image)
            if reason:
                missing[image_name(image)] = reason
            else:
                good.append(i)
        if len(good) < len(group.images):
            # Only what training reads: places and images.
            images = tuple(group.images[i] for i in good)
            group = RankedPrompt(group.id, group.prompt, images, tuple(group.ranks[i] for i in good))
        if len(group.images) < 2:
            dropped += 1
        elif not untied_pairs(group.ranks):
            tied += 1
        else:
            left.append(group)
    if not left:
        some = next(iter(missing.items()), None)
        because = (
            f"{len(missing)} images cannot be read, such as {some[0]}: {some[1]}"
            if some
            else f"{tied} are tied"
        )
        raise InputError(f"{source}: none of {len(groups)} groups can be used; {because}")
    return Usable(left, missing, dropped, tied)


def _absent(image: object) -> str:
    if isinstance(image, Image.Image) or not isinstance(image, (str, os.PathLike)):
        return ""
    try:
        return "" if os.stat(image).st_size else "the file is empty (0 bytes)"
    except OSError as error:
        return "no such file" if isinstance(error, FileNotFoundError) else str(error)
