"""Images with captions, for the ordinary denoising loss."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from reward_core.bulk.sources.tar_file import DamagedTarError, is_compressed, members, open_tar
from reward_core.errors import ImageError
from reward_core.files.foreign_bytes import guarded, read_regular, reason
from reward_core.files.limits import MAX_CAPTION_BYTES, MAX_IMAGE_FILE_BYTES, Limit
from reward_core.inputs.clipped_levels import FirstClippedImage
from reward_core.inputs.image_file import ImageSource, decoded_image
from reward_core.rankings.stored_images import DatasetImage, ReadImage

from ..config import LossConfig
from ..errors import PromptFileError

MAX_UNREADABLE = 100  # in a row: more than a few broken files
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}

logger = logging.getLogger(__name__)


class ImageEntry(NamedTuple):
    """An image with a caption, both unread.

    Attributes:
        name: name within the source, for messages.
        size: file size in bytes; 0 if unknown.
        open: returns the image as ``decoded_image`` takes it.
        caption: reads the caption.
    """

    name: str
    size: int
    open: Callable[[], ImageSource]
    caption: Callable[[], str]


class CaptionedImages:
    """Images with captions, by index.

    Args:
        source: path or id of the source, for messages.
        entries: images in an order that depends only on the source.

    Attributes:
        unreadable: indices of images that could not be read so far.
    """

    def __init__(self, source: str, entries: list[ImageEntry]):
        if not entries:
            raise PromptFileError(
                f"Cannot use {source!r} as loss.pretraining_data: it has no images with captions. Give each "
                "image a .txt file of the same name."
            )
        self.source, self.entries = source, entries
        self.unreadable: set[int] = set()
        self.first_clipped = FirstClippedImage()

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, index: int, height: int, width: int) -> tuple[Tensor, str]:
        """Read an image, resized and center-cropped, and its caption.

        An unreadable image is replaced by the next readable one, the same in every run: one broken file
        must not end every run at the same step.

        Returns:
            (pixels (3, height, width) in [0, 1], caption).

        Raises:
            PromptFileError: 100 images in a row, or all of them, cannot be read.
        """
        tries = min(len(self), MAX_UNREADABLE)
        for shift in range(tries):
            entry = self.entries[(index + shift) % len(self)]
            try:
                with guarded(lambda e: ImageError(entry.name, reason(e))):  # noqa: B023
                    with decoded_image(entry.open(), warn=False) as image:
                        self.first_clipped.check(image, entry.name)
                        upright = ImageOps.exif_transpose(image)
                        fitted = ImageOps.fit(upright.convert("RGB"), (width, height))
                    caption = entry.caption().strip()
            except ImageError as error:
                self._warn((index + shift) % len(self), error.reason)
                continue
            return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1).float() / 255, caption
        raise PromptFileError(
            f"Cannot read the images of {self.source!r}: {tries} in a row failed, the last was "
            f"{entry.name!r}. See the warnings above for the reasons."
        )

    def _warn(self, index: int, reason: str) -> None:
        if index not in self.unreadable:
            self.unreadable.add(index)
            logger.warning(
                f"Cannot read {self.entries[index].name!r} of {self.source!r}: {reason}. Using the next "
                f"image instead ({len(self.unreadable)} of {len(self)} images unreadable so far)."
            )

    def batch(self, indices: list[int], height: int, width: int) -> tuple[Tensor, list[str]]:
        """Read B images and captions.

        Returns:
            (pixels (B, 3, height, width) in [0, 1], B captions).
        """
        loaded = [self.get(index, height, width) for index in indices]
        return torch.stack([pixels for pixels, _ in loaded]), [caption for _, caption in loaded]


def open_captioned(config: LossConfig) -> CaptionedImages:
    """Open the images of ``loss.pretraining_data``.

    This is a folder of images, each with a .txt file of the same name, or a pattern of .tar files with the
    same contents (WebDataset format), or a dataset id or path for ``datasets.load_dataset``.

    Raises:
        PromptFileError: nothing found, no captions, or a missing column.
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
                    path.stat().st_size if path.exists() else 0,  # 0 for a broken link
                    partial(Path, path),
                    partial(_text_of_file, caption),
                )
            )
    return entries


def _from_tars(pattern: str) -> list[ImageEntry]:
    entries = []
    for path in sorted(glob.glob(pattern)):
        try:
            with open_tar(path) as tar:
                if is_compressed(tar):
                    raise PromptFileError(
                        f"Cannot read {path!r}: the tar is compressed. Unpack it to a plain tar."
                    )
                files = {member.name: member for member in members(tar)}
        except DamagedTarError as error:
            raise PromptFileError(f"Cannot read {path!r}: not a readable tar ({error}).") from error
        for name, member in files.items():
            caption = files.get(str(PurePosixPath(name).with_suffix(".txt")))
            if PurePosixPath(name).suffix.lower() in SUFFIXES and caption is not None:
                image_range = (path, member.offset_data, member.size)
                caption_range = (path, caption.offset_data, caption.size)
                entries.append(
                    ImageEntry(
                        f"{os.path.basename(path)}/{name}",
                        member.size,
                        partial(_image_at, name, *image_range),
                        partial(_text_at, *caption_range),
                    )
                )
    return entries


def _read(path: str, offset: int, size: int, limit: Limit) -> bytes:
    if size > limit.value:
        raise ValueError(
            f"the file is too large: {size:,} bytes, the limit is {limit.value:,} ({limit.advice})"
        )
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _text_of_file(path: Path) -> str:
    return read_regular(path, MAX_CAPTION_BYTES).decode("utf-8")


def _image_at(name: str, path: str, offset: int, size: int) -> ReadImage:
    return ReadImage(name, _read(path, offset, size, MAX_IMAGE_FILE_BYTES))


def _text_at(path: str, offset: int, size: int) -> str:
    return _read(path, offset, size, MAX_CAPTION_BYTES).decode()


def _path_cell(data: Any, source: str, column: str, row: int) -> ImageSource:
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
    except Exception as error:  # of many types, from many libraries
        raise PromptFileError(f"Cannot load the dataset {source!r}: {error}") from error
    missing = [name for name in (image, caption) if name not in data.column_names]
    if missing:
        raise PromptFileError(
            f"Cannot use the dataset {source!r}: no column {' or '.join(missing)}. Set loss.image_column and "
            f"loss.caption_column to columns of it: {', '.join(data.column_names)}."
        )
    captions = data.select_columns([caption])
    images = data.select_columns([image])
    open_cell: Callable[..., ImageSource] = _path_cell
    if isinstance(images.features[image], datasets.Image):
        # datasets would decode without size limits.
        images, open_cell = images.cast_column(image, datasets.Image(decode=False)), DatasetImage
    return [
        ImageEntry(
            f"row {row}",
            0,
            partial(open_cell, images, source, image, row),
            partial(_text_cell, captions, row, caption),
        )
        for row in range(len(data))
    ]
