"""A dataset of the `datasets` library, by id, path or saved folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..input_row import InputRow, input_row
from .base import IMAGE_COLUMN, PROMPT_COLUMN, check_columns, check_rows

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset.

    name: id on the hub, path of data files, or a folder that ``save_to_disk`` made.
    configuration: the dataset's, where it has several.
    """

    name: str
    split: str = "train"
    configuration: str | None = None
    prompt_column: str = PROMPT_COLUMN
    image_column: str = IMAGE_COLUMN

    def files(self) -> Iterator[str | os.PathLike[str]]:
        yield self.name
        if os.path.isdir(self.name):
            yield from Path(self.name).rglob("*")

    def open(self, folder: Path) -> DatasetSource:
        return DatasetSource(self)


class DatasetSource:
    """Arrow files mapped into memory; pictures come as the bytes of their files, undecoded."""

    def __init__(self, spec: HubDataset):
        # Other processes may run in another folder.
        self.spec = replace(spec, name=os.path.abspath(spec.name)) if os.path.exists(spec.name) else spec
        check_columns(spec.name, self.data.column_names, (spec.prompt_column, spec.image_column))
        self.rows = len(self.data)
        check_rows(spec.name, self.rows)

    @cached_property
    def data(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise InputError('a dataset needs datasets: pip install "reward-core[datasets]"') from error
        spec = self.spec
        try:
            if os.path.isfile(os.path.join(spec.name, "dataset_dict.json")):
                data = datasets.load_from_disk(spec.name)[spec.split]
            elif os.path.isfile(os.path.join(spec.name, "state.json")):
                data = datasets.load_from_disk(spec.name)
            else:
                data = datasets.load_dataset(spec.name, spec.configuration, split=spec.split)
        except KeyError as error:
            raise InputError(f"{spec.name}: it has no split {spec.split!r}") from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{spec.name}: the dataset cannot be loaded: {reason}") from error
        return data

    @cached_property
    def undecoded(self) -> Any:
        import datasets

        columns = [self.spec.prompt_column, self.spec.image_column]
        data = self.data.select_columns(columns)
        if isinstance(data.features[columns[1]], datasets.Image):
            data = data.cast_column(columns[1], datasets.Image(decode=False))
        return data

    def read(self, start: int) -> Iterator[InputRow]:
        for first in range(start, self.rows, ROWS_AT_ONCE):
            some = self.undecoded[first : first + ROWS_AT_ONCE]
            cells = zip(some[self.spec.prompt_column], some[self.spec.image_column])
            for number, (prompt, image) in enumerate(cells, start=first):
                yield input_row(prompt, image, name=f"row {number}")

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.spec.prompt_column, "image_column": self.spec.image_column}
        return {"kind": "dataset", "fingerprint": self.data._fingerprint, "rows": self.rows, **columns}

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "rows": self.rows}  # another process maps the files anew
