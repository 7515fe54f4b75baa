"""Images with captions, for the ordinary denoising loss beside the reward's."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from reward_core.errors import ImageError
from reward_core.files.foreign_bytes import guarded, read_regular, reason
from reward_core.files.limits import MAX_CAPTION_BYTES
from reward_core.inputs.clipped_levels import FirstClippedImage
from reward_core.inputs.image_file import ImageSource, decoded_image
from reward_core.printing.command_line import report
from reward_core.rankings.stored_images import ReadImage

from .config import LossConfig
from .errors import PromptFileError

MAX_UNREADABLE = 100  # in a row: it is not one broken file then
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class ImageEntry(NamedTuple):
    """An image with a caption, neither of them read yet.

    Attributes:
        name: within its source.
        size: bytes; 0 where only reading it would tell.
        open: gives what `decoded_image` decodes.
        caption: reads the caption.
    """

    name: str
    size: int
    open: Callable[[], ImageSource]
    caption: Callable[[], str]


class CaptionedImages:
    """Images with captions, by number.

    Attributes:
        source: what it was made of, for messages.
        images: in an order that depends on the source alone.
        unreadable: numbers of those that could not be read so far.
    """

    def __init__(self, source: str, images: list[ImageEntry]):
        if not images:
            raise PromptFileError(f"{source}: holds no images with captions")
        self.source, self.entries = source, images
        self.unreadable: set[int] = set()
        self.first_clipped = FirstClippedImage()

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, number: int, height: int, width: int) -> tuple[Tensor, str]:
        """(pixels (3, height, width) in [0, 1], caption); scaled to cover, cut at the middle.

        In place of an image that cannot be read comes the next that can: the same in every run, so that
        one broken file does not end each run at the same step.

        Raises:
            PromptFileError: many in a row cannot be read.
        """
        tries = min(len(self), MAX_UNREADABLE)
        for shift in range(tries):
            entry = self.entries[(number + shift) % len(self)]
            try:
                with guarded(lambda e: ImageError(entry.name, reason(e))):  # noqa: B023
                    with decoded_image(entry.open(), warn=False) as image:
                        self.first_clipped.check(image, entry.name)
                        upright = ImageOps.exif_transpose(image)
                        fitted = ImageOps.fit(upright.convert("RGB"), (width, height))
                    caption = entry.caption().strip()
            except ImageError as error:
                self._warn((number + shift) % len(self), error.reason)
                continue
            return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1).float() / 255, caption
        raise PromptFileError(
            f"{self.source}: {tries} images in a row cannot be read, the last of them {entry.name}"
        )

    def _warn(self, number: int, reason: str) -> None:
        if number not in self.unreadable:
            self.unreadable.add(number)
            report(
                "refl",
                f"{self.source}: {self.entries[number].name} cannot be read ({reason}); the next image takes "
                f"its place ({len(self.unreadable)} of {len(self)} so far)",
            )

    def batch(self, numbers: list[int], height: int, width: int) -> tuple[Tensor, list[str]]:
        """((B, 3, height, width) in [0, 1], B captions)."""
        loaded = [self.get(number, height, width) for number in numbers]
        return torch.stack([pixels for pixels, _ in loaded]), [caption for _, caption in loaded]


def open_captioned(config: LossConfig) -> CaptionedImages:
    """The images that ``pretraining_data`` names.

    A folder: images with a .txt of the same name beside each. A pattern of .tar files: the same inside
    (webdataset's form). Anything else: a dataset's id or path for ``datasets.load_dataset``.

    Raises:
        PromptFileError: nothing there, no captions, or columns that do not exist.
    """
    source = config.pretraining_data
    if os.path.isdir(source) and any(Path(source).rglob("*.txt")):
        return CaptionedImages(source, _from_folder(Path(source)))
    if source.endswith(".tar"):
        return CaptionedImages(source, _from_tars(source))
    return CaptionedImages(source, _from_dataset(config))


def _from_folder(folder: Path) -> list[ImageEntry]:
    entries = []
    for path in sorted(folder.rglob("*")):
        caption = path.with_suffix(".txt")
        if path.suffix.lower() in SUFFIXES and caption.is_file():
            entries.append(
                ImageEntry(
                    path.relative_to(folder).as_posix(),
                    path.stat().st_size if path.exists() else 0,  # a link to nothing
                    partial(Path, path),
                    partial(_text_of_file, caption),
                )
            )
    return entries


def _from_tars(pattern: str) -> list[ImageEntry]:
    entries = []
    for path in sorted(glob.glob(pattern)):
        try:
            with tarfile.open(path) as archive:
                members = {member.name: member for member in archive if member.isfile()}
        except tarfile.TarError as error:
            raise PromptFileError(f"{path}: no readable tar ({error})") from error
        for name, member in members.items():
            caption = members.get(str(PurePosixPath(name).with_suffix(".txt")))
            if PurePosixPath(name).suffix.lower() in SUFFIXES and caption is not None:
                location = (path, member.offset_data, member.size)
                words = (path, caption.offset_data, caption.size)
                entries.append(
                    ImageEntry(
                        f"{os.path.basename(path)}/{name}",
                        member.size,
                        partial(_image_at, name, *location),
                        partial(_text_at, *words),
                    )
                )
    return entries


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _text_of_file(path: Path) -> str:
    return read_regular(path, MAX_CAPTION_BYTES).decode("utf-8")


def _image_at(name: str, path: str, offset: int, size: int) -> ReadImage:
    return ReadImage(name, _read(path, offset, size))


def _text_at(path: str, offset: int, size: int) -> str:
    return _read(path, offset, size).decode()


def _image_cell(data: Any, row: int, column: str) -> ImageSource:
    return data[row][column]


def _text_cell(data: Any, row: int, column: str) -> str:
    return str(data[row][column])


def _from_dataset(config: LossConfig) -> list[ImageEntry]:
    import datasets

    source, image, caption = config.pretraining_data, config.image_column, config.caption_column
    try:
        if os.path.isdir(source) and Path(source, "dataset_info.json").is_file():
            data = datasets.load_from_disk(source)
        else:
            data = datasets.load_dataset(source, split="train")
    except Exception as error:  # many kinds, from many libraries
        raise PromptFileError(f"{source}: cannot be had as images with captions: {error}") from error
    missing = [name for name in (image, caption) if name not in data.column_names]
    if missing:
        raise PromptFileError(
            f"{source}: has no column {' or '.join(missing)}; it has {', '.join(data.column_names)} "
            "(set loss.image_column and loss.caption_column)"
        )
    captions = data.select_columns([caption])
    images = data.select_columns([image])
    return [
        ImageEntry(
            f"row {n}", 0, partial(_image_cell, images, n, image), partial(_text_cell, captions, n, caption)
        )
        for n in range(len(data))
    ]
