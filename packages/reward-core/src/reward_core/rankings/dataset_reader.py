"""Read rankings from datasets of the ``datasets`` library; images are decoded only when opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import HubError, InputError, not_installed
from ..inputs.image_file import StoredImage
from .forms import group_rows
from .ranked_prompt import RankedPrompt
from .stored_images import DatasetImage
from .table_reader import Rows, holds_images, is_list


def read_dataset(
    source: str | Path, split: str, columns: Mapping[str, str] | None = None, config: str | None = None
) -> list[RankedPrompt]:
    """Return the rankings of one split of a dataset; images are read when they are opened.

    Args:
        source: folder of the dataset, or its name on the hub.
        split: name of the split.
        columns: role -> column, see forms.py.
        config: name of the configuration.

    Raises:
        InputError: ``datasets`` is not installed or cannot load the dataset, or a split or column is missing.
        HubError: the dataset cannot be downloaded.
    """
    splits = load_splits(source, config)
    if split not in splits:
        raise InputError(f"Cannot read '{source}': no split {split!r}; it has {', '.join(splits)}.")
    return rankings_of(splits[split], f"{source} ({split})", columns)


def load_splits(source: str | Path, config: str | None = None) -> dict[str, Any]:
    """Return the datasets by split; a saved dataset without splits is "train"."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"Cannot read the dataset '{source}': {not_installed('datasets', 'datasets')}"
        ) from error
    try:
        if Path(source).is_dir() and any(
            (Path(source) / name).is_file() for name in ("state.json", "dataset_dict.json")
        ):
            loaded = datasets.load_from_disk(str(source))
        else:
            loaded = datasets.load_dataset(str(source), config)
    except Exception as error:
        raise _as_error(source, error) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def rankings_of(dataset: Any, name: str, columns: Mapping[str, str] | None) -> list[RankedPrompt]:
    """Return the rankings in a loaded dataset."""
    from datasets import Image

    undecoded = dataset
    for column, feature in dataset.features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, Image):
            undecoded = undecoded.cast_column(column, Image(decode=False))
        elif isinstance(inner, Image):
            undecoded = undecoded.cast_column(column, type(feature)(Image(decode=False)))
    if not len(undecoded):
        raise InputError(f"Cannot read '{name}': it has no rows.")
    schema = undecoded.features.arrow_schema
    images = [field.name for field in schema if holds_images(field.type)]
    lengths = {c: _lengths(undecoded, c) for c in images if is_list(schema.field(c).type)}
    plain = [column for column in undecoded.column_names if column not in images]
    cells = undecoded.select_columns(plain).to_list() if plain else [{} for _ in range(len(undecoded))]
    for i, row in enumerate(cells):
        for column in images:
            row[column] = (
                [DatasetImage(undecoded, name, column, i, k) for k in range(lengths[column][i])]
                if column in lengths
                else DatasetImage(undecoded, name, column, i)
            )
    working_directory = Path()  # paths in a dataset have no other base folder
    return group_rows(
        Rows(name, "row", undecoded.column_names, list(enumerate(cells))),
        columns,
        lambda cell: as_image(cell, working_directory),
    )


def _lengths(dataset: Any, column: str) -> list[int]:
    """Return the number of images in each cell of a column of lists, without copying them."""
    import pyarrow.compute

    lengths: list[int] = []
    for batch in dataset.select_columns([column]).with_format("arrow").iter(1000):
        lengths += [n or 0 for n in pyarrow.compute.list_value_length(batch[column]).to_pylist()]
    return lengths


def as_image(cell: Any, folder: Path) -> Any:
    """Return the image of a cell: a stored image, a URL, or a path relative to ``folder``; None if empty."""
    if isinstance(cell, StoredImage):
        return cell
    if not isinstance(cell, str) or not cell:
        return None
    return cell if "://" in cell else folder / cell


def _as_error(source: str | Path, error: Exception) -> Exception:
    """Convert an error of the library to InputError or HubError; return other errors unchanged."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    reason = str(error).split("\n")[0]
    if isinstance(error, RuntimeError) and "scripts are no longer supported" in reason:
        message = f"Cannot load '{source}': it has a loading script, which `datasets` 4 and later do not run"
        if "imagerewarddb" in str(source).lower():
            return InputError(f"{message}. Run: reward-core prepare imagerewarddb --subset 1k --out data/")
        return InputError(f"{message}. Download its files and read its tables, such as a .parquet file.")
    if isinstance(error, (DatasetNotFoundError, ConnectionError)):
        return HubError(f"Cannot download '{source}' from the hub: {reason.rstrip('.')}.")
    if isinstance(error, (DatasetsError, ValueError, OSError)):
        return InputError(f"Cannot load '{source}' as a dataset: {reason.rstrip('.')}.")
    return error
