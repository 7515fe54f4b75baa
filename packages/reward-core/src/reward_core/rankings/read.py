"""Read rankings from any supported file, folder or dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from .dataset_reader import as_image, read_dataset
from .forms import group_rows
from .imagerewarddb import METADATA, read_imagerewarddb
from .json_records import RANKINGS_FILE
from .ranked_prompt import RankedPrompt
from .table_reader import EXTENSIONS, read_rows

_METADATA = re.compile(METADATA.format(r"(\w+)"))


def read_rankings(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
) -> list[RankedPrompt]:
    """Return the rankings in a source, in its order. docs/data.md shows all formats.

    Args:
        path: a .json, .jsonl, .csv or .parquet file; ImageRewardDB's ``metadata-{split}.parquet``; a folder
            with a ``rankings.json``, with ImageRewardDB, with the ``{split}.json`` files of ``prepare``, or
            with a dataset; or the name of a dataset on the hub.
        images: folder that image names are relative to (default: the folder of the file).
        columns: role -> column, for columns with other names than those in ``forms.ROLES``.
        split: the split to read, if the folder or dataset has several.

    Raises:
        InputError: the file or folder does not exist or is invalid; the message names the record.
        HubError: the dataset cannot be downloaded.
    """
    source, path = os.fspath(path), Path(path)
    if images is not None and not Path(images).is_dir():
        raise InputError(f"Cannot read images from '{images}': no such folder. Set --images to one.")
    if path.is_dir():
        return _read_folder(path, images, columns, split)
    if not path.exists() and is_hub_name(source):
        return read_dataset(source, split or "train", columns)
    if not path.is_file():
        raise InputError(f"Cannot read rankings from '{path}': no such file.")
    return _read_file(path, Path(images) if images is not None else path.parent, columns)


def _read_file(path: Path, folder: Path, columns: Mapping[str, str] | None) -> list[RankedPrompt]:
    if match := _METADATA.fullmatch(path.name):
        return read_imagerewarddb(path, folder, match[1], columns)
    return group_rows(read_rows(path), columns, lambda cell: as_image(cell, folder))


def _read_folder(
    path: Path,
    images: str | os.PathLike[str] | None,
    columns: Mapping[str, str] | None,
    split: str | None,
) -> list[RankedPrompt]:
    folder = Path(images) if images is not None else path
    if split is None and (path / RANKINGS_FILE).is_file():
        return _read_file(path / RANKINGS_FILE, folder, columns)
    files = split_files(path)
    if split is None and len(files) > 1:
        raise InputError(
            f"Cannot read '{path}': it has several splits. Set --split, or use one of the files: "
            f"{', '.join(map(str, files.values()))}."
        )
    if split is None and files:
        split = next(iter(files))
    if split in files:
        return _read_file(files[split], folder, columns)
    if not files and is_dataset(path):
        return read_dataset(path, split or "train", columns)
    file = path / (f"{split}.json" if split else RANKINGS_FILE)
    raise InputError(f"Cannot read rankings from '{file}': no such file.")


def split_files(folder: Path) -> dict[str, Path]:
    """Return the file of each split in a folder of ``prepare`` or in the layout of ImageRewardDB."""
    prepared = {name: folder / f"{name}.json" for name in ("train", "validation", "test")}
    existing = {name: file for name, file in prepared.items() if file.is_file()}
    if existing:
        return existing
    metadata = [(m[1], file) for file in sorted(folder.iterdir()) if (m := _METADATA.fullmatch(file.name))]
    return dict(metadata)


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a dataset: saved by ``datasets``, or with tables in it."""
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return True
    return any(file.suffix in EXTENSIONS[1:] for file in folder.rglob("*") if file.is_file())


def is_hub_name(source: str) -> bool:
    """Return whether a source can only be OWNER/NAME on the hub, not a misspelled path."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        return False
    return Path(source).suffix not in EXTENSIONS and not Path(source).parent.exists()
