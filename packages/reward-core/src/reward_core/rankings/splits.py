"""Read the training, validation and test data of a source."""

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
#: Names of splits in datasets, the most common first.
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
    """Return the rankings of "train", "validation" and "test"; an empty list for a missing split.

    Args:
        source: a folder written by ``reward-core prepare`` (train.json, validation.json, test.json), a
            folder of ImageRewardDB, a dataset (folder or name on the hub), or a single file, which becomes
            the training data.
        images, columns: see ``read_rankings``.
        config: configuration of the dataset.

    Raises:
        InputError, HubError: see ``read_rankings``; also if there is no training data.

    Warns:
        DataWarning: there is no validation data.
    """
    splits = available_splits(source, images, columns, config)
    if not splits["validation"]:
        warn_caller(f"'{source}' has no validation data", DataWarning)
    return splits


def available_splits(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
) -> dict[str, list[RankedPrompt]]:
    """Return the same as ``read_splits``, without the warning about validation data."""
    path = Path(source)
    if path.is_dir():
        files = split_files(path)
        if files:
            splits = {name: read_rankings(file, images or path, columns) for name, file in files.items()}
        elif is_dataset(path):
            splits = _dataset_splits(source, columns, config)
        else:
            raise InputError(
                f"Cannot read '{path}': no train.json. Create such a folder with `reward-core prepare`."
            )
    elif path.exists():
        splits = {"train": read_rankings(path, images, columns)}
    elif is_hub_name(os.fspath(source)):
        splits = _dataset_splits(source, columns, config)
    else:
        raise InputError(f"Cannot read rankings from '{path}': no such file or folder.")
    if not splits.get("train"):
        raise InputError(
            f"Cannot read '{source}': it has no training data, only {', '.join(splits) or 'nothing'}."
        )
    return {name: splits.get(name, []) for name in SPLITS}


def _dataset_splits(
    source: str | os.PathLike[str], columns: Mapping[str, str] | None, config: str | None
) -> dict[str, list[RankedPrompt]]:
    loaded = load_splits(os.fspath(source), config)
    splits = {}
    for split, names in NAMES.items():
        name = next((name for name in names if name in loaded), None)
        if name is not None:
            splits[split] = rankings_of(loaded[name], f"{source} ({name})", columns)
    return splits
