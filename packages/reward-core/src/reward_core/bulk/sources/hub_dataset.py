"""A dataset of the `datasets` library, by id, path or saved folder."""

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

from ...errors import InputError
from ..input_row import InputRow, input_row
from .base import IMAGE_COLUMN, PROMPT_COLUMN, Source, check_columns, check_rows

ROWS_AT_ONCE = 64
DEFAULT_SPLIT = "train"
#: A data file's extension -> the library's builder that reads it.
BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset.

    name: id on the hub, a data file (.csv, .json, .jsonl or .parquet), a folder of such files, or one that
        ``save_to_disk`` made. Paths in a single file are relative to it.
    split: by default "train"; a folder that was saved without splits takes none.
    configuration: the dataset's, where it has several.
    bars: whether the library may show its own progress bars while the dataset is loaded.
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
        for what in ("name", "split", "configuration"):
            given = getattr(self, what)
            if given is not None and not os.fspath(given).strip():
                raise InputError(f"the dataset's {what} is empty")
        return DatasetSource(self)


class DatasetSource(Source):
    """Arrow files mapped into memory; images come as the bytes of their files, undecoded."""

    def __init__(self, spec: HubDataset):
        # Other processes may run in another folder.
        self.spec = replace(spec, name=os.path.abspath(spec.name)) if os.path.exists(spec.name) else spec
        check_columns(spec.name, self.data.column_names, (spec.prompt_column, spec.image_column))
        self.rows = len(self.data)
        check_rows(spec.name, self.rows)

    @cached_property
    def data(self) -> Any:
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise InputError(
                "Cannot read a dataset: datasets is not installed. Run `pip install datasets`."
            ) from error
        try:
            with _bars(self.spec.bars):
                return _load(self.spec)
        except InputError:
            raise
        except Exception as error:  # any kind: KeyError, StopIteration and IndexError were seen
            reason = _reason(error)
            raise InputError(f"{self.spec.name}: the dataset cannot be loaded: {reason}") from error

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
                some = undecoded[first : last + 1]
            except Exception as error:
                message = f"rows {first} to {last} of the dataset cannot be read: {_reason(error)}"
                raise InputError(f"{self.spec.name}: {message}") from error
            cells = zip(some[self.spec.prompt_column], some[self.spec.image_column])
            for number, (prompt, image) in enumerate(cells, start=first):
                yield input_row(prompt, image, folder, name=f"row {number}")

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.spec.prompt_column, "image_column": self.spec.image_column}
        return {"kind": "dataset", "fingerprint": self.data._fingerprint, "rows": self.rows, **columns}

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files anew; the terminal is not its own.
        return {"spec": replace(self.spec, bars=False), "rows": self.rows}


def _load(spec: HubDataset) -> Any:
    import datasets

    if any(os.path.isfile(os.path.join(spec.name, file)) for file in ("dataset_dict.json", "state.json")):
        if spec.configuration is not None:
            raise InputError(f"{spec.name}: a saved folder has no configuration {spec.configuration!r}")
        return _chosen(datasets.load_from_disk(spec.name), spec)
    split = spec.split or DEFAULT_SPLIT
    if not os.path.isfile(spec.name):
        return datasets.load_dataset(spec.name, spec.configuration, split=split)
    builder = BUILDERS.get(os.path.splitext(spec.name)[1].lower())
    if builder is None:
        raise InputError(f"{spec.name}: a data file's extension must be one of {', '.join(BUILDERS)}")
    if spec.configuration is not None:
        raise InputError(f"{spec.name}: a data file has no configuration {spec.configuration!r}")
    check_rows(spec.name, os.path.getsize(spec.name))
    # The library would take [, * and ? for a pattern.
    return datasets.load_dataset(builder, data_files=glob.escape(spec.name), split=split)


def _chosen(saved: Any, spec: HubDataset) -> Any:
    """A saved folder's split. One that was saved by itself may know its name."""
    if isinstance(saved, dict):
        split = spec.split or DEFAULT_SPLIT
        if split not in saved:
            raise InputError(f"{spec.name}: it has no split {split!r}; it has {', '.join(saved)}")
        return saved[split]
    if spec.split not in (None, str(saved.split)):
        has = "was saved without splits" if saved.split is None else f"is the split '{saved.split}'"
        raise InputError(f"{spec.name}: it has no split {spec.split!r}; it {has}")
    return saved


def _reason(error: Exception) -> str:
    """In one line. Of a dataset that cannot be built the library says only that; the cause says why."""
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    if type(error) is DatasetGenerationError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = textwrap.shorten(str(error), 300, placeholder=" ...")
    if text and isinstance(error, (DatasetsError, OSError, ValueError, RuntimeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Of the library, and of the one that fetches files for it."""
    import datasets
    import huggingface_hub.utils

    with ExitStack() as stack:
        for library in () if shown else (datasets, huggingface_hub.utils):
            if not library.are_progress_bars_disabled():
                library.disable_progress_bars()
                stack.callback(library.enable_progress_bars)
        yield
