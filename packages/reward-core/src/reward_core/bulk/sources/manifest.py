"""Manifests: .csv, .jsonl or .parquet files with a column of prompts and a column of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .base import IMAGE_COLUMN, PROMPT_COLUMN, Source
from .parquet import ParquetSource
from .text import CsvSource, JsonlSource

KINDS: dict[str, Callable[[Path, str, str, str], Source]] = {
    ".csv": CsvSource,
    ".jsonl": JsonlSource,
    ".parquet": ParquetSource,
}


@dataclass(frozen=True)
class Manifest:
    """A manifest.

    Attributes:
        path: .csv (with a header), .jsonl (one object per line) or .parquet file.
        prompt_column: name of the column of prompts.
        image_column: name of the column of images. An image is a path relative to ``images``; in Parquet it
            may also be the bytes of a file, or a struct of bytes and path.
        images: folder of the images (default: the manifest's folder).
    """

    path: Path
    prompt_column: str = PROMPT_COLUMN
    image_column: str = IMAGE_COLUMN
    images: Path | None = None

    def files(self) -> list[Path]:
        return [Path(self.path)]

    def open(self, folder: Path) -> Source:
        path = Path(self.path)
        kind = KINDS.get(path.suffix)
        if kind is None:
            raise InputError(
                f"Cannot read '{path}': the extension of a manifest must be one of {', '.join(KINDS)}."
            )
        if not path.is_file():
            raise InputError(f"Cannot read '{path}': no such file. Set --manifest to a file.")
        if self.images is not None and not Path(self.images).is_dir():
            raise InputError(f"Cannot read images from '{self.images}': no such folder. Set --images to one.")
        images = os.path.abspath(path.parent if self.images is None else self.images)
        return kind(path.absolute(), self.prompt_column, self.image_column, images)
