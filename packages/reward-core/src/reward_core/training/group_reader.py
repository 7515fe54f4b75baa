"""Read groups of images for training; images that cannot be read are left out and listed."""

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
    """The readable images of a group, as pixels or as cached tokens.

    Attributes:
        number: index of the group.
        prompt: the prompt to train with.
        ranks: rank of each readable image.
        image_indices: indices of the readable images in the record.
        slots: their slots in the cache.
        images: (K, S, S, 3) uint8, or None if there are tokens.
        tokens: (K, N, E) from the cache, or None.
    """

    number: int
    prompt: str
    ranks: tuple[int, ...]
    image_indices: tuple[int, ...]
    slots: tuple[int, ...]
    images: Tensor | None
    tokens: Tensor | None


class GroupReader:
    """Read groups by index, in threads, ahead of the computation.

    Args:
        groups: records with untied pairs.
        transform: the model's image transform.
        reword: (record, epoch) -> the prompt to use in that epoch; None uses the record's prompt.
        workers: number of threads.
        split: name of the split, for naming images that have no file name.

    Attributes:
        groups: the records.
        skipped: the reason for each image that could not be read so far, by ``image_name``.
        pairs: number of untied pairs of each group.
        cache: cached tokens of the images, or None.
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
        self._threads = ThreadPoolExecutor(workers, "images")

    @property
    def images(self) -> list:
        """All images, in the order of their slots."""
        return [image for group in self.groups for image in group.images]

    def image_name(self, number: int, i: int) -> str:
        """Return the name of image ``i`` of group ``number``; its indices if it has no file name."""
        image = self.groups[number].images[i]
        if isinstance(image, Image.Image) and not getattr(image, "filename", ""):
            return f"{image_name(image)} ({self.split} group {number}, image {i})"
        return image_name(image)

    def start(self, batch: MicroBatch, epoch: int) -> list[Future[ReadGroup | None]]:
        """Start reading the groups of a micro-batch."""
        return [self._threads.submit(self.read, number, epoch) for number in batch]

    def read(self, number: int, epoch: int = 0) -> ReadGroup | None:
        """Read group ``number``; return None if its readable images have no untied pair."""
        group = self.groups[number]
        good = [i for i in range(len(group.images)) if self.image_name(number, i) not in self.skipped]
        tokens = None
        if self.cache is not None:
            tokens = self.cache.get([self.first_slot[number] + i for i in good])
        images: dict[int, np.ndarray] = {}
        for i in good if tokens is None else ():
            try:
                name = self.image_name(number, i)
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
        """Stop the threads."""
        self._threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Usable:
    """The usable records of a split, and what was left out.

    Attributes:
        groups: records with at least one untied pair.
        missing: the reason for each image whose file is missing or empty, by name.
        dropped: number of groups with fewer than two images left.
        tied: number of groups whose images all have the same rank.
    """

    groups: list[RankedPrompt]
    missing: dict[str, str]
    dropped: int
    tied: int


def usable_groups(groups: Sequence[RankedPrompt], source: str) -> Usable:
    """Return the records without images whose files are missing or empty.

    Args:
        groups: the records.
        source: name of the data in errors.

    Raises:
        InputError: no record has an untied pair left.
    """
    missing: dict[str, str] = {}
    usable, dropped, tied = [], 0, 0
    for group in groups:
        good = []
        for i, image in enumerate(group.images):
            reason = _problem(image)
            if reason:
                missing[image_name(image)] = reason
            else:
                good.append(i)
        if len(good) < len(group.images):
            # Rebuilt from the fields that training uses.
            images = tuple(group.images[i] for i in good)
            group = RankedPrompt(group.id, group.prompt, images, tuple(group.ranks[i] for i in good))
        if len(group.images) < 2:
            dropped += 1
        elif not untied_pairs(group.ranks):
            tied += 1
        else:
            usable.append(group)
    if not usable:
        example = next(iter(missing.items()), None)
        reason = (
            f"{len(missing)} images cannot be read, such as '{example[0]}' ({example[1]})"
            if example
            else f"all images are tied in {tied} groups"
        )
        raise InputError(
            f"Cannot use the {source}: none of its {len(groups)} groups has two readable images of different "
            f"ranks; {reason}."
        )
    return Usable(usable, missing, dropped, tied)


def _problem(image: object) -> str:
    """Return why an image's file cannot be read, or "" if it exists and is not empty."""
    if isinstance(image, Image.Image) or not isinstance(image, (str, os.PathLike)):
        return ""
    try:
        return "" if os.stat(image).st_size else "the file is empty (0 bytes)"
    except OSError as error:
        return "no such file" if isinstance(error, FileNotFoundError) else str(error)
