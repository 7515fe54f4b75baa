"""Pictures with captions, for the ordinary denoising loss beside the reward's."""

from __future__ import annotations

import glob
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .config import LossConfig
from .errors import PromptFileError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class CaptionedPictures:
    """Pictures with captions, by number.

    Attributes:
        source: what it was made of, for messages.
        items: for each picture a function that opens it, and its caption or a function that reads it.
    """

    def __init__(self, source: str, items: list[tuple[Callable[[], Image.Image], Any]]):
        if not items:
            raise PromptFileError(f"{source}: holds no pictures with captions")
        self.source, self.items = source, items

    def __len__(self) -> int:
        return len(self.items)

    def get(self, number: int, height: int, width: int) -> tuple[Tensor, str]:
        """(pixels (3, height, width) in [0, 1], caption); scaled to cover, cut at the middle."""
        opened, caption = self.items[number]
        try:
            with opened() as image:
                fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise PromptFileError(f"{self.source}: picture {number} cannot be read: {error}") from error
        pixels = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1).float() / 255
        return pixels, (caption() if callable(caption) else caption).strip()

    def batch(self, numbers: list[int], height: int, width: int) -> tuple[Tensor, list[str]]:
        """((B, 3, height, width) in [0, 1], B captions)."""
        pictures = [self.get(number, height, width) for number in numbers]
        return torch.stack([pixels for pixels, _ in pictures]), [caption for _, caption in pictures]


def open_captioned(config: LossConfig) -> CaptionedPictures:
    """The pictures that ``pretraining_data`` names.

    A folder: pictures with a .txt of the same name beside each. A pattern of .tar files: the same inside
    (webdataset's form). Anything else: a dataset's id or path for ``datasets.load_dataset``.

    Raises:
        PromptFileError: nothing there, no captions, or columns that do not exist.
    """
    source = config.pretraining_data
    if os.path.isdir(source) and any(Path(source).rglob("*.txt")):
        return CaptionedPictures(source, _from_folder(Path(source)))
    if source.endswith(".tar"):
        return CaptionedPictures(source, _from_tars(source))
    return CaptionedPictures(source, _from_dataset(config))


def _from_folder(folder: Path) -> list:
    items = []
    for path in sorted(folder.rglob("*")):
        caption = path.with_suffix(".txt")
        if path.suffix.lower() in SUFFIXES and caption.is_file():
            items.append((lambda path=path: Image.open(path), lambda path=caption: path.read_text("utf-8")))
    return items


def _from_tars(pattern: str) -> list:
    items = []
    for path in sorted(glob.glob(pattern)):
        try:
            with tarfile.open(path) as archive:
                members = {member.name: member for member in archive if member.isfile()}
        except tarfile.TarError as error:
            raise PromptFileError(f"{path}: no readable tar ({error})") from error
        for name, member in members.items():
            caption = members.get(str(PurePosixPath(name).with_suffix(".txt")))
            if PurePosixPath(name).suffix.lower() in SUFFIXES and caption is not None:
                place = (path, member.offset_data, member.size)
                words = (path, caption.offset_data, caption.size)
                items.append(
                    (
                        lambda at=place: Image.open(io.BytesIO(_read(*at))),
                        lambda at=words: _read(*at).decode(),
                    )
                )
    return items


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _from_dataset(config: LossConfig) -> list:
    import datasets

    source, image, caption = config.pretraining_data, config.image_column, config.caption_column
    try:
        if os.path.isdir(source) and Path(source, "dataset_info.json").is_file():
            data = datasets.load_from_disk(source)
        else:
            data = datasets.load_dataset(source, split="train")
    except Exception as error:  # many kinds, from many libraries
        raise PromptFileError(f"{source}: cannot be had as pictures with captions: {error}") from error
    missing = [name for name in (image, caption) if name not in data.column_names]
    if missing:
        raise PromptFileError(
            f"{source}: has no column {' or '.join(missing)}; it has {', '.join(data.column_names)} "
            "(set loss.image_column and loss.caption_column)"
        )
    captions = data.select_columns([caption])
    pictures = data.select_columns([image])
    return [(lambda n=n: pictures[n][image], lambda n=n: str(captions[n][caption])) for n in range(len(data))]
