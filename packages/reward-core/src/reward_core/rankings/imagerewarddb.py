"""Read ImageRewardDB in the layout of the hub: one Parquet file per split, images in zips or folders.

metadata-train.parquet   image_path, prompt_id, prompt, ..., rank (1 is best); one row per image
images/train/train_1.zip, or the folder images/train/train_1 with the images of that zip
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataWarning, InputError
from ..files.zip_file import reading_zip
from ..inputs.image_file import ImageSource
from ..runs.caller_warning import warn_caller
from .forms import group_rows
from .ranked_prompt import RankedPrompt
from .stored_images import ZippedImage
from .table_reader import Rows, read_rows

METADATA = "metadata-{}.parquet"


def read_imagerewarddb(
    metadata: Path,
    folder: Path,
    split: str,
    columns: Mapping[str, str] | None = None,
    only: set[str] | None = None,
) -> list[RankedPrompt]:
    """Return the rankings of one split. Images in missing zips are left out, as in a subset.

    Args:
        metadata: the Parquet file of the split.
        folder: folder that contains ``images/{split}/``.
        split: name of the split.
        columns: role -> column, see forms.py.
        only: names of the zips to use, such as "train_1" (default: all that exist). If given, missing zips
            cause no warning.

    Raises:
        InputError: no image exists, or the metadata is invalid.

    Warns:
        DataWarning: images were left out.
    """
    index = _ImageIndex(folder, split, only)
    rows = read_rows(metadata)
    numbered = list(rows.rows)
    rank = (columns or {}).get("rank", "rank")
    unranked = [i for i, row in numbered if rank in row and row[rank] is None]
    if unranked:
        numbered = [(i, row) for i, row in numbered if row[rank] is not None]
        count = f"{len(unranked):,} images in '{metadata}'"
        warn_caller(f"{count} have no rank and are left out, such as row {unranked[0]}", DataWarning)
    data = group_rows(Rows(rows.name, rows.unit, rows.columns, numbered), columns, index.find)
    if not data:
        raise InputError(
            f"Cannot read '{metadata}': none of its images is in '{folder / 'images' / split}'. Put the zips "
            "or folders with their content into that folder."
        )
    if index.absent and only is None:
        names = sorted(index.absent)
        examples = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        message = f"{sum(index.absent.values()):,} of {len(numbered):,} images of '{metadata}' are left out"
        warn_caller(f"{message}, because their zips are missing ({examples})", DataWarning)
    return data


class _ImageIndex:
    """The locations of a split's images, whose file names are unique."""

    def __init__(self, folder: Path, split: str, only: set[str] | None):
        self.folder, self.split = folder, split
        self.absent: Counter[str] = Counter()  # missing zip -> number of images
        self.folders: dict[str, Path] = {}
        self.zips: dict[str, dict[str, ZippedImage]] = {}
        root = folder / "images" / split
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.name.startswith(".") or (only is not None and path.stem not in only):
                continue
            if path.is_dir():
                self.folders[path.name] = path
            elif path.suffix == ".zip" and path.stem not in self.folders:
                self.zips[path.stem] = _members(path)

    def find(self, cell: Any) -> ImageSource | None:
        """Return the image of a metadata row; if its zip exists without it, opening the image fails."""
        name = PurePosixPath(str(cell).replace("\\", "/"))
        part = name.parent.name
        if part in self.folders:
            return self.folders[part] / name.name
        if part in self.zips:
            missing = ZippedImage(self.folder / "images" / self.split / f"{part}.zip", name.name)
            return self.zips[part].get(name.name, missing)
        if not part.startswith(f"{self.split}_"):
            for members in self.zips.values():
                if name.name in members:
                    return members[name.name]
            for folder in self.folders.values():
                if (folder / name.name).is_file():
                    return folder / name.name
            if not name.is_absolute() and ".." not in name.parts and (self.folder / name).is_file():
                return self.folder / name
        self.absent[part] += 1
        return None


def _members(path: Path) -> dict[str, ZippedImage]:
    with reading_zip(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    return {PurePosixPath(name).name: ZippedImage(path, name) for name in names}
