"""Training, validation and test data of one source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import DataWarning, InputError
from ..runs.caller_warning import warn_caller
from .dataset_reader import load_splits, rankings_of
from .ranked_prompt import RankedPrompt
from .read import is_dataset, is_hub_name, read_rankings, split_files

SPLITS = ("train", "validation", "test")
#: Names that datasets give their splits, the most likely first.
NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "validation_unique"),
    "test": ("test", "test_unique"),
}


def read_splits(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
) -> dict[str, list[RankedPrompt]]:
    """ "train", "validation" and "test" of a source, an empty list for one that it lacks.

    Args:
        source: a folder as ``reward-core prepare`` writes it (train.json, validation.json, test.json), a
            folder of ImageRewardDB, a dataset (folder or name on the hub), or a single file, which is taken
            for training data.
        images, columns: as for ``read_rankings``.
        config: which of a dataset's configurations.

    Raises:
        InputError, HubError: as ``read_rankings`` does; also where there is no training data.

    Warns:
        DataWarning: there is no validation data.
    """
    splits = available_splits(source, images, columns, config)
    if not splits["validation"]:
        warn_caller(f"{source}: no validation data is there", DataWarning)
    return splits


def available_splits(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
) -> dict[str, list[RankedPrompt]]:
    """Return what `read_splits` returns, without its warning about validation data."""
    path = Path(source)
    if path.is_dir():
        files = split_files(path)
        if files:
            found = {name: read_rankings(file, images or path, columns) for name, file in files.items()}
        elif is_dataset(path):
            found = _of_dataset(source, columns, config)
        else:
            raise InputError(f"{path}: holds no train.json; `reward-core prepare` writes such a folder")
    elif path.exists():
        found = {"train": read_rankings(path, images, columns)}
    elif is_hub_name(os.fspath(source)):
        found = _of_dataset(source, columns, config)
    else:
        raise InputError(f"{path}: no such file or folder")
    if not found.get("train"):
        raise InputError(f"{source}: holds no training data, only {', '.join(found) or 'nothing'}")
    return {name: found.get(name, []) for name in SPLITS}


def _of_dataset(
    source: str | os.PathLike[str], columns: Mapping[str, str] | None, config: str | None
) -> dict[str, list[RankedPrompt]]:
    loaded = load_splits(os.fspath(source), config)
    found = {}
    for split, names in NAMES.items():
        name = next((name for name in names if name in loaded), None)
        if name is not None:
            found[split] = rankings_of(loaded[name], f"{source} ({name})", columns)
    return found
