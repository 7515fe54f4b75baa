"""Datasets of the ``datasets`` library, by hub id, path or saved folder."""

from __future__ import annotations

import glob
import os
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import InputError, not_installed
from ..input_row import InputRow, input_row
from .base import IMAGE_COLUMN, PROMPT_COLUMN, Source, check_columns, check_rows

ROWS_AT_ONCE = 64
DEFAULT_SPLIT = "train"
#: Extension of a data file -> the library's builder for it.
BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset.

    Attributes:
        name: id on the hub, a data file (.csv, .json, .jsonl or .parquet), a folder of such files, or a
            folder written by ``save_to_disk``. Paths in a single file are relative to it.
        split: name of the split (default: "train"); None for a folder that was saved without splits.
        configuration: name of the configuration, if the dataset has several.
        prompt_column: name of the column of prompts.
        image_column: name of the column of images.
        bars: whether the library shows its progress bars while the dataset is loaded.
    """

    name: str
    split: str | None = None
    configuration: str | None = None
    prompt_column: str = PROMPT_COLUMN
    image_column: str = IMAGE_COLUMN
    bars: bool = True

    def files(self) -> Iterator[str | os.PathLike[str]]:
        yield self.name
        if os.path.isdir(self.name):
            yield from Path(self.name).rglob("*")

    def open(self, folder: Path) -> DatasetSource:
        for field in ("name", "split", "configuration"):
            value = getattr(self, field)
            if value is not None and not os.fspath(value).strip():
                raise InputError(f"Cannot load the dataset: its {field} is empty.")
        return DatasetSource(self)


class DatasetSource(Source):
    """The rows of a dataset in memory-mapped Arrow files; images are not decoded by the library."""

    def __init__(self, spec: HubDataset):
        # Absolute, because other processes may have another working directory.
        self.spec = replace(spec, name=os.path.abspath(spec.name)) if os.path.exists(spec.name) else spec
        check_columns(spec.name, self.data.column_names, (spec.prompt_column, spec.image_column))
        self.rows = len(self.data)
        check_rows(spec.name, self.rows)

    @cached_property
    def data(self) -> Any:
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise InputError(f"Cannot read a dataset: {not_installed('datasets', 'datasets')}") from error
        try:
            with _bars(self.spec.bars):
                return _load(self.spec)
        except InputError:
            raise
        except Exception as error:  # the library raises many types, such as KeyError and StopIteration
            raise InputError(f"Cannot load the dataset '{self.spec.name}': {_reason(error)}.") from error

    @cached_property
    def undecoded(self) -> Any:
        import datasets

        columns = [self.spec.prompt_column, self.spec.image_column]
        data = self.data.select_columns(columns)
        if isinstance(data.features[columns[1]], datasets.Image):
            data = data.cast_column(columns[1], datasets.Image(decode=False))
        return data

    def read(self, start: int) -> Iterator[InputRow]:
        undecoded = self.undecoded
        folder = os.path.dirname(self.spec.name) if os.path.isfile(self.spec.name) else ""
        for first in range(start, self.rows, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, self.rows) - 1
            try:
                batch = undecoded[first : last + 1]
            except Exception as error:
                raise InputError(
                    f"Cannot read rows {first} to {last} of the dataset '{self.spec.name}': {_reason(error)}."
                ) from error
            cells = zip(batch[self.spec.prompt_column], batch[self.spec.image_column])
            for number, (prompt, image) in enumerate(cells, start=first):
                yield input_row(prompt, image, folder, name=f"row {number}")

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.spec.prompt_column, "image_column": self.spec.image_column}
        return {"kind": "dataset", "fingerprint": self.data._fingerprint, "rows": self.rows, **columns}

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself, and must not draw bars on this terminal.
        return {"spec": replace(self.spec, bars=False), "rows": self.rows}


def _load(spec: HubDataset) -> Any:
    import datasets

    if any(os.path.isfile(os.path.join(spec.name, file)) for file in ("dataset_dict.json", "state.json")):
        if spec.configuration is not None:
            raise InputError(
                f"Cannot load '{spec.name}': a saved folder has no configurations. Remove "
                f"configuration={spec.configuration!r}."
            )
        return _selected_split(datasets.load_from_disk(spec.name), spec)
    split = spec.split or DEFAULT_SPLIT
    if not os.path.isfile(spec.name):
        return datasets.load_dataset(spec.name, spec.configuration, split=split)
    builder = BUILDERS.get(os.path.splitext(spec.name)[1].lower())
    if builder is None:
        raise InputError(
            f"Cannot load '{spec.name}': the extension of a data file must be one of {', '.join(BUILDERS)}."
        )
    if spec.configuration is not None:
        raise InputError(
            f"Cannot load '{spec.name}': a data file has no configurations. Remove "
            f"configuration={spec.configuration!r}."
        )
    check_rows(spec.name, os.path.getsize(spec.name))
    # Escaped, because the library treats [, * and ? as a pattern.
    return datasets.load_dataset(builder, data_files=glob.escape(spec.name), split=split)


def _selected_split(saved: Any, spec: HubDataset) -> Any:
    """Return the requested split of a saved dataset; a split saved separately may know its name."""
    if isinstance(saved, dict):
        split = spec.split or DEFAULT_SPLIT
        if split not in saved:
            raise InputError(f"Cannot load '{spec.name}': no split {split!r}. It has {', '.join(saved)}.")
        return saved[split]
    if spec.split not in (None, str(saved.split)):
        content = "was saved without splits" if saved.split is None else f"is the split '{saved.split}'"
        raise InputError(f"Cannot load '{spec.name}': no split {spec.split!r}. It {content}.")
    return saved


def _reason(error: Exception) -> str:
    """Return an error in one line without a final period.

    For a DatasetGenerationError, which has no details, return its cause.
    """
    from datasets.exceptions import DatasetGenerationCastError, DatasetGenerationError, DatasetsError

    if type(error) is DatasetGenerationError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = textwrap.shorten(str(error).rstrip("."), 300, placeholder=" ...")
    if isinstance(error, DatasetGenerationCastError) or "Schema at index" in text:
        return f"its files have different columns ({text}). Give one file, or files with the same columns"
    if text and isinstance(error, (DatasetsError, OSError, ValueError, RuntimeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Hide the progress bars of datasets and huggingface_hub unless ``shown``."""
    import datasets
    import huggingface_hub.utils

    with ExitStack() as stack:
        for library in () if shown else (datasets, huggingface_hub.utils):
            if not library.are_progress_bars_disabled():
                library.disable_progress_bars()
                stack.callback(library.enable_progress_bars)
        yield
